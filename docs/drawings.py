"""The drawings of the Concepts pages: `python docs/drawings.py` writes docs/drawings/*.svg.

Each drawing carries its own panel and colours for light and dark, and names only the reader's own
sans-serif font, so that it is readable on any page and needs no network.
"""

from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).with_name("drawings")
STYLE = """
text { font: 13px system-ui, sans-serif; fill: var(--ink) }
.small { font-size: 11px; fill: var(--dim) } .bold { font-weight: 600 }
.panel { fill: var(--panel) } .box { fill: var(--box); stroke: var(--line) }
.off { fill: var(--off) } .clean { fill: var(--clean) } .noisy { fill: var(--noisy) }
.gone { fill: none; stroke: var(--line); stroke-dasharray: 3 3 }
.line { fill: none; stroke: var(--dim); stroke-width: 1.5 } .tip { fill: var(--dim) }
.cut { stroke: var(--ink); stroke-width: 2 }
svg { --ink: #1f2733; --dim: #5b6573; --panel: #ffffff; --box: #eef2f8; --line: #9aa7ba;
      --off: #e9edf3; --clean: #3b6fb6; --noisy: #e08a2e }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e8ecf2; --dim: #a5afbd; --panel: #1b2029; --box: #28303c; --line: #5d6a7d;
        --off: #2b323d; --clean: #6ea3ea; --noisy: #f0a650 }
}
"""
TIP = (
    '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
    '<path class="tip" d="M0,0 L8,4 L0,8 z"/></marker></defs>'
)


class Drawing:
    """An SVG of `width` x `height` pixels with a title for those who cannot see it."""

    def __init__(self, title: str, width: int, height: int):
        self.title = title
        self.size = (width, height)
        self.parts: list[str] = []

    def rect(self, x: float, y: float, *, w: float, h: float, kind: str = "box", r: int = 2):
        self.parts.append(
            f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}" rx="{r}"/>'
        )

    def text(self, x: float, y: float, words: str, *, kind: str = "", anchor: str = "start"):
        self.parts.append(
            f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def arrow(self, *points: tuple[float, float]):
        path = " L".join(f"{x},{y}" for x, y in points)
        self.parts.append(f'<path class="line" d="M{path}" marker-end="url(#tip)"/>')

    def cut(self, x: float, top: float, bottom: float):
        self.parts.append(f'<path class="cut" d="M{x},{top} L{x},{bottom}"/>')

    def card(self, x: float, y: float, *, w: float, lines: list[str], h: float = 62):
        """A box whose first line is bold and whose other lines are small."""
        self.rect(x, y, w=w, h=h, r=8)
        self.text(x + w / 2, y + 24, lines[0], kind="bold", anchor="middle")
        for number, line in enumerate(lines[1:]):
            self.text(x + w / 2, y + 42 + 15 * number, line, kind="small", anchor="middle")

    def svg(self) -> str:
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-label="{escape(self.title)}">'
        )
        panel = f'<rect class="panel" width="{width}" height="{height}" rx="10"/>'
        body = "\n".join([f"<style>{STYLE}</style>{TIP}", panel, *self.parts])
        return f"{head}<title>{escape(self.title)}</title>\n{body}\n</svg>\n"


CHUNKS = 4
CELL = 24


def mask(drawing: Drawing, x: float, y: float, *, rows: list[str], columns: int) -> None:
    """A grid of query rows and key columns: `c` attends to a clean key, `n` to a noisy one."""
    kinds = {"c": "clean", "n": "noisy", ".": "off"}
    for row, line in enumerate(rows):
        for column in range(columns):
            left, top = x + column * CELL, y + row * CELL
            drawing.rect(left, top, w=CELL - 2, h=CELL - 2, kind=kinds[line[column]])


def causal(kind: str, strict: bool = False) -> list[str]:
    """Rows of a mask where chunk i attends to chunks before it, and to itself unless `strict`."""
    seen = [index if strict else index + 1 for index in range(CHUNKS)]
    return [kind * count + "." * (CHUNKS - count) for count in seen]


def teacher_forcing_rows() -> list[str]:
    """Rows of the doubled clip [clean | noisy]."""
    clean = [row + "." * CHUNKS for row in causal("c")]
    itself = ["." * i + "n" + "." * (CHUNKS - 1 - i) for i in range(CHUNKS)]
    noisy = [past + own for past, own in zip(causal("c", strict=True), itself, strict=True)]
    return clean + noisy


def masks() -> Drawing:
    """The three attention contexts side by side."""
    drawing = Drawing("Attention masks: bidirectional, teacher forcing, cached", 760, 330)
    top = 92
    drawing.text(30, 34, "Bidirectional", kind="bold")
    drawing.text(30, 54, "stage 0, real score, critic", kind="small")
    mask(drawing, 30, top, rows=["n" * CHUNKS] * CHUNKS, columns=CHUNKS)
    drawing.text(200, 34, "Teacher forcing [clean | noisy]", kind="bold")
    drawing.text(200, 54, "stages 1 and 2: all chunks of a clip in one pass", kind="small")
    mask(drawing, 200, top, rows=teacher_forcing_rows(), columns=2 * CHUNKS)
    for half, name in enumerate(("clean keys", "noisy keys")):
        left = 200 + half * CHUNKS * CELL
        drawing.text(left + 2 * CELL, top - 10, name, kind="small", anchor="middle")
    drawing.text(496, 34, "Cached", kind="bold")
    drawing.text(496, 54, "streaming and stage 3: one chunk at a time", kind="small")
    for index in range(CHUNKS):
        drawing.text(494, top + 15 + index * CELL, f"chunk {index + 1}", kind="small")
        row = "c" * index + "n" + "." * (CHUNKS - 1 - index)
        mask(drawing, 546, top + index * CELL, rows=[row], columns=CHUNKS)
    drawing.text(496, top + 120, "The same row as in the noisy half:", kind="small")
    drawing.text(496, top + 136, "what is trained is what is streamed.", kind="small")
    for number, (kind, name) in enumerate(
        [("clean", "attends to a clean chunk (t = 0)"), ("noisy", "attends to a noisy chunk")]
    ):
        drawing.rect(496, top + 166 + 22 * number, w=14, h=14, kind=kind)
        drawing.text(516, top + 178 + 22 * number, name, kind="small")
    drawing.text(30, top + 118, "rows: queries", kind="small")
    drawing.text(30, top + 134, "columns: keys", kind="small")
    return drawing


POLICIES = {
    "Full": "ccccccccccc",
    "Window(4)": ".......cccc",
    "Sink(1, 3)": "c.......ccc",
    "ShotSink(1, 1, 2)": "c......c.cc",
    "CAMR(5)": ".nn.n...n.c",
}
WHY = {
    "Full": "everything; the cost grows with the film",
    "Window(4)": "the last pages",
    "Sink(1, 3)": "the film's first page and the last ones",
    "ShotSink(1, 1, 2)": "also the running shot's first page",
    "CAMR(5)": "a window of 1, the 4 most relevant",
}
SHOTS = (4, 7)  # pages before each cut


def cache() -> Drawing:
    """Which pages a chunk retrieves under each policy."""
    drawing = Drawing("KV cache: which pages a chunk attends to under each policy", 760, 300)
    left, step = 180, 26
    drawing.text(30, 32, "KV cache of a film, one page a finished chunk", kind="bold")
    for shot, (start, stop) in enumerate([(0, 4), (4, 7), (7, 11)]):
        middle = left + step * (start + stop) / 2
        drawing.text(middle, 58, f"shot {shot + 1}", kind="small", anchor="middle")
    drawing.text(left + step * 11.6, 58, "now", kind="small", anchor="middle")
    for row, (name, pages) in enumerate(POLICIES.items()):
        top = 70 + row * 38
        drawing.text(30, top + 17, name)
        for index, page in enumerate(pages):
            kind = {"c": "clean", "n": "noisy", ".": "gone"}[page]
            drawing.rect(left + index * step, top, w=step - 4, h=24, kind=kind)
        drawing.rect(left + 11 * step + 4, top, w=step - 4, h=24)
        drawing.text(left + 12 * step + 18, top + 17, WHY[name], kind="small")
    for before in SHOTS:
        drawing.cut(left + before * step - 2, 64, 256)
    for x, kind, name in [
        (180, "clean", "pinned"),
        (260, "noisy", "retrieved by relevance"),
        (430, "gone", "stored, not attended to"),
    ]:
        drawing.rect(x, 270, w=14, h=14, kind=kind)
        drawing.text(x + 20, 282, name, kind="small")
    return drawing


def rollout() -> Drawing:
    """One chunk of the roll-out."""
    drawing = Drawing("The roll-out: one chunk from noise to the KV cache", 760, 300)
    drawing.card(30, 60, w=120, lines=["noise", "t = 1, seeded", "by (film, chunk)"], h=76)
    drawing.card(200, 60, w=150, lines=["network", "v = net(x, t, ...)", "x0 = x − t v"], h=76)
    drawing.card(
        400, 60, w=150, lines=["next level", "renoise: student", "step the ODE: base"], h=76
    )
    drawing.card(600, 60, w=130, lines=["clean chunk", "x0, t = 0"], h=76)
    drawing.arrow((150, 98), (196, 98))
    drawing.arrow((350, 98), (396, 98))
    drawing.arrow((550, 98), (596, 98))
    drawing.arrow((475, 60), (475, 34), (275, 34), (275, 56))
    drawing.text(375, 27, "until the last level", kind="small", anchor="middle")
    drawing.card(600, 190, w=130, lines=["clean pass", "the network at t = 0"])
    drawing.card(400, 190, w=150, lines=["KV cache", "append the chunk's page"])
    drawing.card(200, 190, w=150, lines=["policy", "pages to retrieve"])
    drawing.arrow((665, 136), (665, 186))
    drawing.arrow((600, 221), (554, 221))
    drawing.arrow((400, 221), (354, 221))
    drawing.arrow((275, 190), (275, 140))
    drawing.card(30, 190, w=120, lines=["condition", "prompt of the shot"])
    drawing.arrow((150, 221), (176, 221), (176, 122), (196, 122))
    note = "Stage 3 draws one exit step for all chunks: only that network call keeps its graph."
    drawing.text(30, 282, note, kind="small")
    return drawing


def stages() -> Drawing:
    """The training stages and what passes between them."""
    drawing = Drawing("Stages 0 to 3", 760, 320)
    drawing.card(
        20, 40, w=150, lines=["0  bidirectional", "every frame attends", "to every frame"], h=80
    )
    drawing.card(
        210,
        40,
        w=160,
        lines=["1  teacher forcing", "causal, multi-shot,", "CAMR in the loop"],
        h=80,
    )
    drawing.card(410, 20, w=160, lines=["2a  causal ODE", "stored end points"])
    drawing.card(410, 100, w=160, lines=["2b  consistency", "one teacher step, online"])
    drawing.card(610, 40, w=130, lines=["3  DMD", "the student's own", "roll-outs"], h=80)
    drawing.arrow((170, 80), (206, 80))
    drawing.arrow((370, 70), (406, 51))
    drawing.arrow((370, 90), (406, 131))
    drawing.arrow((570, 51), (606, 70))
    drawing.arrow((570, 131), (606, 90))
    drawing.arrow((95, 120), (95, 190), (675, 190), (675, 124))
    drawing.text(390, 208, "real score, and the critic's start", kind="small", anchor="middle")
    drawing.card(210, 232, w=160, lines=["base model", "8 guided steps"])
    drawing.card(580, 232, w=160, lines=["student", "4, 2 or 1 steps"])
    drawing.arrow((290, 120), (290, 228))
    drawing.arrow((720, 120), (720, 228))
    return drawing


METHOD = {
    "script": "screenplays, timelines",
    "world": "the toybox",
    "latent": "codecs",
    "ops": "attention, rope",
    "flow": "path, solvers, roll-out",
    "memory": "policy, cache, context",
    "model": "the network",
    "train": "the stages",
}
MACHINE = {
    "weights": "layouts, LoRA",
    "scale": "FSDP, fused, tiling",
    "jobs": "a training as a file",
    "zoo": "models by name",
    "stream": "Director, sessions",
    "metrics": "what a film shows",
    "bench, data": "speed, clips",
    "lab, cli": "desk, sweeps, reports",
}


def rooms() -> Drawing:
    """The line between method and machine."""
    drawing = Drawing("The method above, the machine below", 760, 372)
    for row, (name, note, modules) in enumerate(
        [
            ("The method", "what a researcher reads and changes", METHOD),
            ("The machine", "what makes it large, fast and usable", MACHINE),
        ]
    ):
        top = 24 + row * 170
        drawing.text(24, top + 8, name, kind="bold")
        drawing.text(132, top + 8, note, kind="small")
        for index, (room, what) in enumerate(modules.items()):
            left = 24 + (index % 4) * 180
            drawing.card(left, top + 22 + (index // 4) * 62, w=172, lines=[room, what], h=54)
    drawing.parts.append('<path class="cut" d="M24,176 L736,176" stroke-dasharray="6 5"/>')
    note = "Imports run upwards only: the method never imports the machine, and runs without it."
    drawing.text(24, 356, note, kind="small")
    return drawing


DRAWINGS = {
    "masks": masks,
    "kv_cache": cache,
    "rollout": rollout,
    "stages": stages,
    "method_and_machine": rooms,
}


def main() -> None:
    """Write every drawing."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in DRAWINGS.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
