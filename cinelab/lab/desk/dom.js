// Small helpers of the desk's page.

export const MEDIA_TYPES = {
  mp4: "video/mp4",
  png: "image/png",
  yaml: "text/yaml",
  jpg: "image/jpeg",
};

// Make an element at the end of `parent`.
export function make(parent, tag, name = "", more = {}) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  Object.assign(element, more);
  parent.append(element);
  return element;
}

export function seconds(value) {
  return `${value.toFixed(1)} s`;
}

// The address of bytes that came as a message; `name` says of which kind they are.
export function blobAddress(bytes, name) {
  const type = MEDIA_TYPES[name.split(".").at(-1)];
  return URL.createObjectURL(new Blob([bytes], { type }));
}
