// Planes of codes: beside each the digit that its decoder draws of the point under the hand.

import { colours, drawDigit, forward, framed, make, model, movable, onChange, sharp, written } from "./live.js";

const SCALES = { linear: [(v) => v, (v) => v], asinh: [Math.asinh, Math.sinh] };

/** For each class the medians of its codes, which it is named at. */
function medians({ points, labels }) {
  const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  return [...new Set(labels)].sort().map((label) => {
    const own = points.filter((_, i) => labels[i] === label);
    return [0, 1].map((axis) => middle(own.map((code) => code[axis])));
  });
}

/** One model's plane of codes, and beside it the digit that its decoder draws of the point. */
function panel(parent, title, coordinates) {
  const box = make(parent, "div", { class: "vae-live-panel" });
  make(box, "p", { class: "vae-live-title" }, title);
  const plane = make(box, "canvas", {
    class: "vae-live-plane", tabindex: "0", role: "application",
    "aria-label": `${title}: a plane of codes. Arrow keys move the point, with Shift further; ` +
      "its decoded image is drawn anew each time.",
  });
  const digit = make(box, "canvas", { class: "vae-live-digit", "aria-hidden": "true" });
  const out = make(box, "output", { class: "vae-live-readout" });
  const point = { u: 0.5, v: 0.5 };
  let network = null;

  const [scaled, back] = SCALES[coordinates.scale];
  const at = () => coordinates.limits.map(([low, high], axis) =>
    back(low + (high - low) * (axis ? point.v : point.u)));

  const badges = medians(coordinates);

  const draw = () => {
    const { context, width, height } = sharp(plane);
    const tone = colours();
    const [[left, right], [bottom, top]] = coordinates.limits;
    const place = (x, y) => [((scaled(x) - left) / (right - left)) * width,
                             (1 - (scaled(y) - bottom) / (top - bottom)) * height];
    context.globalAlpha = 0.55;
    coordinates.points.forEach(([x, y], i) => {
      context.fillStyle = coordinates.palette[coordinates.labels[i]];
      context.fillRect(...place(x, y).map((v) => v - 1), 2, 2);
    });
    context.globalAlpha = 1;
    [context.strokeStyle, context.lineWidth] = [tone.muted, 1];
    context.setLineDash([4, 4]);
    for (const radius of coordinates.circles) {
      const [cx, cy] = place(0, 0);
      context.beginPath();
      context.arc(cx, cy, place(radius, 0)[0] - cx, 0, 2 * Math.PI);
      context.stroke();
    }
    context.setLineDash([]);
    badges.forEach(([bx, by], name) => {
      const [px, py] = place(bx, by);
      context.fillStyle = coordinates.palette[name];
      context.beginPath();
      context.arc(px, py, 9, 0, 2 * Math.PI);
      context.fill();
      context.fillStyle = "#fff";
      context.font = "bold 12px sans-serif";
      [context.textAlign, context.textBaseline] = ["center", "middle"];
      context.fillText(name, px, py);
    });
    const [x, y] = [point.u * width, (1 - point.v) * height];
    context.lineWidth = 2.5;
    for (const [colour, radius] of [[tone.ground, 9], [tone.text, 7]]) {
      context.strokeStyle = colour;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.stroke();
    }
    const z = at();
    if (network) drawDigit(digit, forward(network.layers, z));
    out.textContent = `z = (${z.map(written).join(", ")})`;
  };
  const redraw = framed(draw);
  movable(plane, point, redraw);
  onChange(plane, redraw);
  return (got) => {
    network = got;
    redraw();
  };
}

export async function build(box, names) {
  const got = await Promise.all(names.map(model));
  for (const [i, about] of got.entries()) {
    panel(box, about.title, { ...about.codes, palette: about.palette })(got[i]);
  }
  make(box, "p", { class: "vae-live-hint" },
    "Move over a plane, or use the arrow keys: the digit is decoded as you go.");
}
