/* A page opened from the disk may start no worker. The search's worker then runs in a hidden frame.
   The site's theme asks a remote address for such a shim; the build puts this one in its place. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      this.ready = new Promise((resolve) => (frame.onload = resolve))
      this.frame = frame
      window.addEventListener("message", (event) => {
        if (event.source !== frame.contentWindow) return
        const message = new MessageEvent("message", { data: event.data })
        this.dispatchEvent(message)
        if (this.onmessage) this.onmessage(message)
      })
      const start = "self.postMessage = (data) => parent.postMessage(data, '*')"
      frame.srcdoc = `<script>${start}</script><script src="${url}"></script>`
      document.body.appendChild(frame)
    }

    async postMessage(data) {
      await this.ready
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
    }

    terminate() {
      this.frame.remove()
    }
  }
}
