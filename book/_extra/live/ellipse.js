// A true posterior, and a Gaussian that is fitted to it by hand: the gap is what the ELBO misses.

import { drawDigit, forward, framed, make, model, onChange, sharp, written } from "./live.js";
import { posterior } from "./ellipse-plane.js";

// viridis, as in the stored figure
const VIRIDIS = ["440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70",
                 "7ad151", "bddf26", "fde725"].map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
const PICTURE = 200; // points a side that the map is drawn of
const ARM = 26; // pixels from the outer ellipse to a handle, so that no two handles meet
const [SMALLEST, WIDEST] = [0.01, 0.45]; // of half the map: a standard deviation
const nats = (value) => `${written(value)} nats`;
const degrees = (angle) => Math.round((angle * 180) / Math.PI) || 0;
const pair = (values) => values.map((v) => v.toFixed(3).replace("-", "−")).join(", ");

/** Where a gap stands on its scale, from hundredths to hundreds of nats: a share of its length. */
const along = (gap) => Math.min(1, Math.max(0, (Math.log10(Math.max(gap, 1e-9)) + 2) / 4.7));

/** The density of a posterior, relative to its peak, as a picture. */
function picture({ at, peak }, { centre: [x, y], half }) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = PICTURE;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(PICTURE, PICTURE);
  const place = (k) => half * ((2 * k + 1) / PICTURE - 1);
  for (let i = 0, p = 0; i < PICTURE; i++) {
    for (let j = 0; j < PICTURE; j++, p += 4) {
      const value = 10 * Math.min(1, Math.exp(at(x + place(j), y - place(i)) - peak));
      const k = Math.min(9, Math.floor(value));
      const colour = VIRIDIS[k].map((low, c) => low + (value - k) * (VIRIDIS[k + 1][c] - low));
      pixels.data.set([...colour, 255], p);
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/** Let a handle be dragged: `to` is told where it is wanted, in the map's pixels. */
function draggable(handle, from, to) {
  let held = null;
  handle.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    handle.setPointerCapture(event.pointerId);
    const at = from();
    held = [at[0] - event.clientX, at[1] - event.clientY];
  });
  handle.addEventListener("pointermove", (event) => {
    if (held) to([held[0] + event.clientX, held[1] + event.clientY]);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    handle.addEventListener(end, () => (held = null));
  }
}

function onKeys(handle, act) {
  handle.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!by || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    act(by, event.shiftKey ? 5 : 1);
  });
}

/** The parts of the figure, in the order of the Tab key. */
function parts(box, images) {
  make(box, "p", { class: "vae-live-title" }, "Your turn: fit the Gaussian by hand");
  const choice = make(box, "div", { class: "vae-ellipse-choice", role: "group", "aria-label": "A test image" });
  make(choice, "span", {}, "Test image");
  const buttons = images.map(({ label, encoder }) => {
    const button = make(choice, "button", { type: "button", "aria-pressed": "false",
      "aria-label": `A ${label}` });
    make(button, "canvas", { "aria-hidden": "true" });
    return button;
  });
  const map = make(box, "div", { class: "vae-ellipse-map" });
  const canvas = make(map, "canvas", { role: "img",
    "aria-label": "The true posterior of the image, bright where it is high, and an ellipse at one " +
      "and two standard deviations of a Gaussian." });
  const handle = (name, what, role = "slider") =>
    make(map, "span", { class: `vae-ellipse-handle vae-ellipse-${name}`, tabindex: "0", role,
                        "aria-label": what });
  const centre = handle("centre", "The Gaussian's mean. Arrow keys move it, with Shift further.", "application");
  const axes = ["first", "second"].map((which) => handle("axis", `Standard deviation along its ${which} axis`));
  const tilt = handle("tilt", "Its tilt in degrees");
  const side = make(box, "div", { class: "vae-ellipse-side" });
  const pictures = make(side, "div", { class: "vae-ellipse-pictures" });
  const digits = ["the image x", "decoded at the mean"].map((text) => {
    const figure = make(pictures, "span");
    const digit = make(figure, "canvas", { "aria-hidden": "true" });
    make(figure, "span", {}, text);
    return digit;
  });
  const gap = make(side, "output", { class: "vae-ellipse-gap" });
  const scale = make(side, "div", { class: "vae-ellipse-scale", "aria-hidden": "true" });
  for (const tick of [0.01, 0.1, 1, 10, 100]) {
    make(scale, "i", { style: `left: ${100 * along(tick)}%` }, String(tick));
  }
  const marks = ["encoder", "best", "now"].map((name) =>
    make(scale, "b", { class: `vae-ellipse-${name}`, hidden: "" }));
  const out = make(side, "output", { class: "vae-ellipse-words", "aria-live": "off" });
  const row = make(box, "div", { class: "vae-ellipse-row" });
  const answer = make(row, "button", { type: "button" }, "The encoder’s answer");
  const again = make(row, "button", { type: "button" }, "Start over");
  const label = make(row, "label");
  const meanField = make(label, "input", { type: "checkbox" });
  label.append("mean-field: no tilt");
  make(box, "p", { class: "vae-live-hint" },
    "Bright: the true posterior under the mean-field decoder of seed 0, computed in your browser. Drag the " +
    "Gaussian’s mean, the squares on its axes and the ring that turns it, or reach them with Tab and use " +
    "the arrow keys. The gap is log p(x) − ELBO: at 0 the Gaussian would be the true posterior itself.");
  return { buttons, map, canvas, centre, axes, tilt, digits, gap, marks, out, answer, again, meanField };
}

/** The Gaussian's numbers as they may be: its centre on the map, its axes neither lost nor endless. */
function bounded(q, { centre, half }, upright) {
  q.mean = q.mean.map((v, axis) => Math.min(centre[axis] + half, Math.max(centre[axis] - half, v)));
  q.sds = q.sds.map((s) => Math.min(WIDEST * half, Math.max(SMALLEST * half, s)));
  if (upright && q.angle) {
    if (Math.abs(q.angle) > Math.PI / 4) q.sds.reverse(); // each axis to the nearer one of the plane
    q.angle = 0;
  }
  while (q.angle > Math.PI / 2) q.angle -= Math.PI;
  while (q.angle <= -Math.PI / 2) q.angle += Math.PI;
}

export async function build(box, [name]) {
  const { images, layers } = await model(name);
  const at = parts(box, images);
  const inks = images.map(({ pixels }) => Float32Array.from(atob(pixels), (c) => c.charCodeAt(0) / 255));
  const start = ({ centre, half }) => ({ mean: [...centre], sds: [half / 4, half / 4], angle: 0 });
  // of each image: its Gaussian, the best gaps by hand; once computed, the truth and the encoder's gap
  const states = images.map((view) => ({ q: start(view), share: 0, best: {} }));
  const worker = new Worker(new URL("ellipse-plane.js", import.meta.url), { type: "module" });
  worker.postMessage({ layers: layers.map(({ inputs, outputs, weight, bias }) => ({ inputs, outputs, weight, bias })) });
  let chosen = 4; // an image whose encoder is off, and whose posterior tilts
  let side = [1, 1, -1]; // at which end of its axis each handle is
  let held = false;

  const state = () => states[chosen];
  const view = () => images[chosen];
  const size = () => at.canvas.getBoundingClientRect().width;
  const pixels = () => size() / (2 * view().half); // one unit of the plane
  const place = ([x, y]) => [(x - view().centre[0] + view().half) * pixels(),
                             (view().centre[1] + view().half - y) * pixels()];
  const back = ([x, y]) => [view().centre[0] - view().half + x / pixels(),
                            view().centre[1] + view().half - y / pixels()];
  /** The direction of an axis on the screen, where up is negative. */
  const direction = (axis) => [Math.cos, (v) => -Math.sin(v)].map((f) => f(state().q.angle + (axis * Math.PI) / 2));
  /** Where the handle `k` belongs: two axes, then the ring that turns. */
  const end = (k, sign = side[k]) => {
    const axis = k === 1 ? 1 : 0;
    const reach = sign * (2 * state().q.sds[axis] * pixels() + ARM);
    const [x, y] = place(state().q.mean);
    const [dx, dy] = direction(axis);
    return [x + reach * dx, y + reach * dy];
  };
  const inside = (point) => point.every((v) => v >= 10 && v <= size() - 10);

  /* What is drawn. */
  const drawMap = () => {
    const { context, width, height } = sharp(at.canvas);
    const { q, map } = state();
    context.fillStyle = `rgb(${VIRIDIS[0]})`;
    context.fillRect(0, 0, width, height);
    if (!map) return;
    context.drawImage(map, 0, 0, width, height);
    if (!held) { // the ends that lie on the map
      for (const axis of [0, 1]) side[axis] = inside(end(axis, 1)) || !inside(end(axis, -1)) ? 1 : -1;
      side[2] = -side[0];
    }
    const shown = at.tilt.hidden ? [0, 1] : [0, 1, 2];
    const [x, y] = place(q.mean);
    for (const [colour, wide] of [["rgb(0 0 0 / 45%)", 4], ["#fff", 1.8]]) {
      [context.strokeStyle, context.lineWidth] = [colour, wide];
      for (const k of [1, 2]) {
        context.beginPath();
        context.ellipse(x, y, ...q.sds.map((s) => k * s * pixels()), -q.angle, 0, 2 * Math.PI);
        context.stroke();
      }
      context.setLineDash([3, 4]);
      [context.lineWidth] = [wide / 2];
      for (const k of shown) {
        context.beginPath();
        context.moveTo(x, y);
        context.lineTo(...end(k));
        context.stroke();
      }
      context.setLineDash([]);
    }
    scaleBar(context, height);
    const put = (handle, [left, top]) => {
      handle.style.left = `${Math.min(width - 10, Math.max(10, left))}px`;
      handle.style.top = `${Math.min(height - 10, Math.max(10, top))}px`;
    };
    put(at.centre, [x, y]);
    [...at.axes, at.tilt].forEach((handle, k) => put(handle, end(k)));
  };

  /** A bar of a round length, and the names of the axes. */
  const scaleBar = (context, height) => {
    const lengths = [0.01, 0.02, 0.05, 0.1, 0.2].filter((a) => a < 0.6 * view().half);
    const length = lengths.at(-1) * pixels();
    [context.fillStyle, context.font] = ["#fff", "13px sans-serif"];
    [context.textAlign, context.textBaseline] = ["left", "alphabetic"];
    context.fillRect(14, height - 16, length, 3);
    context.fillText(`${lengths.at(-1)}`, 14, height - 22);
    context.textAlign = "right";
    context.fillText("z₁ →", size() - 10, height - 12);
    context.textAlign = "left";
    context.fillText("↑ z₂", 12, 20);
  };

  const say = () => {
    const { q, truth, best, share, encoder } = state();
    const now = truth?.gap(q);
    const known = (value) => (value === undefined ? (truth ? "none yet" : "…") : nats(value));
    at.gap.textContent = truth ? `Gap: ${nats(now)}` : `Decoding: ${Math.round(100 * share)} %`;
    at.gap.classList.toggle("vae-ellipse-won", now < encoder);
    [encoder, best.any, now].forEach((value, k) => {
      at.marks[k].hidden = value === undefined;
      at.marks[k].style.left = `${100 * along(value ?? 1)}%`;
    });
    const beaten = encoder - best.any > 0.005 ? ` (${written(encoder - best.any)} better)` : "";
    const rows = [
      ["encoder", "The encoder’s gap", known(encoder)],
      ["best", "Your best so far", known(best.any) + beaten],
      ["", "Your best without tilt", known(best.upright)],
      ["", "log p(x)", known(truth?.logPx)],
      ["", "ELBO", known(truth && truth.logPx - now)],
      ["", "Mean", `(${pair(q.mean)})`],
      ["", "Standard deviations", pair(q.sds)],
      ["", "Tilt", `${degrees(q.angle)}°`.replace("-", "−")],
    ];
    at.out.replaceChildren();
    for (const [mark, what, value] of rows) {
      const line = make(at.out, "span");
      const head = make(line, "span");
      if (mark) make(head, "b", { class: `vae-ellipse-${mark}` });
      head.append(`${what}: `);
      make(line, "span", {}, value);
    }
    if (!truth) return;
    at.axes.forEach((handle, axis) => {
      const share = q.sds[axis] / view().half;
      handle.setAttribute("aria-valuemin", "1");
      handle.setAttribute("aria-valuemax", String(100 * WIDEST));
      handle.setAttribute("aria-valuenow", (100 * share).toFixed(1));
      handle.setAttribute("aria-valuetext", `${q.sds[axis].toFixed(3)}; gap ${nats(now)}`);
    });
    at.tilt.setAttribute("aria-valuemin", "-90");
    at.tilt.setAttribute("aria-valuemax", "90");
    at.tilt.setAttribute("aria-valuenow", String(degrees(q.angle)));
    at.tilt.setAttribute("aria-valuetext", `${degrees(q.angle)} degrees; gap ${nats(now)}`);
  };

  const draw = () => {
    drawMap();
    drawDigit(at.digits[1], forward(layers, state().q.mean));
    say();
  };
  const redraw = framed(draw);
  const drawAll = framed(() => {
    drawDigit(at.digits[0], inks[chosen]);
    at.buttons.forEach((button, i) => drawDigit(button.firstChild, inks[i]));
    draw();
  });

  /* What is done. */
  const change = (act) => {
    if (!state().truth) return;
    act(state().q);
    const { q, truth, best } = state();
    bounded(q, view(), at.meanField.checked);
    const now = truth.gap(q);
    best.any = Math.min(now, best.any ?? Infinity);
    if (at.meanField.checked) best.upright = Math.min(now, best.upright ?? Infinity);
    redraw();
  };
  const stretch = (axis, [px, py]) => change((q) => {
    const [[x, y], [dx, dy]] = [place(q.mean), direction(axis)];
    const reach = side[axis] * ((px - x) * dx + (py - y) * dy);
    q.sds[axis] = (reach - ARM) / 2 / pixels();
  });
  const turn = ([px, py]) => change((q) => {
    const [x, y] = place(q.mean);
    q.angle = Math.atan2(side[2] * (y - py), side[2] * (px - x));
  });
  const step = () => 0.02 * view().half;

  draggable(at.centre, () => place(state().q.mean), (to) => change((q) => (q.mean = back(to))));
  at.axes.forEach((handle, axis) => draggable(handle, () => end(axis), (to) => stretch(axis, to)));
  draggable(at.tilt, () => end(2), turn);
  for (const handle of [at.centre, ...at.axes, at.tilt]) {
    handle.addEventListener("gotpointercapture", () => (held = true)); // no handle changes its end in the hand
    handle.addEventListener("lostpointercapture", () => {
      held = false;
      redraw();
    });
  }
  onKeys(at.centre, ([x, y], times) => change((q) => {
    q.mean = [q.mean[0] + x * times * step(), q.mean[1] + y * times * step()];
  }));
  at.axes.forEach((handle, axis) => onKeys(handle, ([x, y], times) => change((q) => {
    q.sds[axis] *= 1.04 ** ((x + y) * times);
  })));
  onKeys(at.tilt, ([x, y], times) => change((q) => (q.angle += ((x + y) * times * Math.PI) / 90)));
  let pressed = null; // a click or a tap calls the centre; a finger that goes on scrolls the page
  at.canvas.addEventListener("pointerdown", ({ button, clientX, clientY }) => {
    pressed = button ? null : [clientX, clientY];
  });
  at.canvas.addEventListener("pointercancel", () => (pressed = null));
  at.canvas.addEventListener("pointerup", ({ clientX, clientY }) => {
    const still = pressed && Math.hypot(clientX - pressed[0], clientY - pressed[1]) < 8;
    pressed = null;
    if (!still) return;
    const { left, top } = at.canvas.getBoundingClientRect();
    change((q) => (q.mean = back([clientX - left, clientY - top])));
  });

  const set = (q) => {
    state().q = { mean: [...q.mean], sds: [...q.sds], angle: q.angle ?? 0 };
    redraw();
  };
  at.answer.addEventListener("click", () => set(view().encoder));
  at.again.addEventListener("click", () => {
    state().best = {};
    set(start(view()));
  });
  at.meanField.addEventListener("change", () => {
    at.tilt.hidden = at.meanField.checked;
    bounded(state().q, view(), at.meanField.checked);
    redraw();
  });

  const choose = (i) => {
    chosen = i;
    bounded(state().q, view(), at.meanField.checked);
    at.buttons.forEach((button, k) => button.setAttribute("aria-pressed", String(k === i)));
    at.map.classList.toggle("vae-ellipse-waits", !state().truth);
    if (!state().asked) {
      state().asked = true;
      worker.postMessage({ image: i, ink: inks[i], view: { centre: view().centre, half: view().half } });
    }
    drawAll();
  };
  worker.addEventListener("message", ({ data: { image, share, values } }) => {
    const found = states[image];
    if (values) {
      found.truth = posterior(images[image], values);
      found.map = picture(found.truth, images[image]);
      found.encoder = found.truth.gap({ ...images[image].encoder, angle: 0 });
      at.map.classList.toggle("vae-ellipse-waits", !state().truth);
    } else found.share = share;
    if (image === chosen) redraw();
  });
  worker.addEventListener("error", () => (at.out.textContent = "This browser could not run the decoder."));
  at.buttons.forEach((button, i) => button.addEventListener("click", () => choose(i)));
  onChange(at.map, drawAll);
  choose(chosen);
}
