// From what an artifact gives to classes, boxes and masks, as "decoding" of the manifest describes it.

import { taps } from "./resize.js";

/**
 * Read the outputs.
 *
 * @param about The manifest's kind, output, decoding, anchors and input.
 * @param outputs [{name, shape, data}], of one picture.
 * @param size [height, width] px of the picture.
 * @returns Of classification {scores: probability of each class}; of detection {boxes: [{label, score, box}]}, xyxy px
 *   of the picture, best first; of segmentation {mask: class of each px of the picture}.
 */
export function prediction(about, outputs, size) {
  const read = { classification, detection, segmentation }[about.kind];
  if (!read) throw new Error(`this page does not show ${about.kind}`);
  return read(about, Object.fromEntries(outputs.map((output) => [output.name, output])), size);
}

function classification({ decoding }, outputs) {
  const [{ data }] = Object.values(outputs);
  const values = Array.from(data);
  if (decoding.scores.activation === "softmax") return { scores: softmax(values) };
  const total = values.reduce((sum, value) => sum + value, 0);
  return { scores: values.map((value) => value / total) };
}

function softmax(values) {
  const most = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - most));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

function segmentation({ output }, outputs, [height, width]) {
  const [{ data, shape }] = Object.values(outputs);
  if (output === "logits") return { mask: largest(data, shape.slice(1), [height, width]) };
  const [, rows, columns] = shape;
  const at = (count, old) => Int32Array.from({ length: count }, (_, place) => Math.floor((place * old) / count));
  const [ys, xs] = [at(height, rows), at(width, columns)];
  const mask = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) mask[y * width + x] = data[ys[y] * columns + xs[x]];
  }
  return { mask };
}

/** The class with the largest logit of each px, after bilinear resizing of (K, h, w). */
function largest(logits, [classes, rows, columns], [height, width]) {
  const how = { kernel: "bilinear", antialias: false };
  const [down, across] = [taps(rows, height, how), taps(columns, width, how)];
  const mask = new Uint8Array(height * width);
  for (let y = 0; y < height; y++) {
    const v = down[y];
    for (let x = 0; x < width; x++) {
      const u = across[x];
      let best = -Infinity;
      for (let k = 0; k < classes; k++) {
        let sum = 0;
        for (let i = 0; i < v.weights.length; i++) {
          const row = (k * rows + v.first + i) * columns + u.first;
          for (let j = 0; j < u.weights.length; j++) sum += v.weights[i] * u.weights[j] * logits[row + j];
        }
        if (sum > best) [best, mask[y * width + x]] = [sum, k];
      }
    }
  }
  return mask;
}

function detection(about, outputs, [height, width]) {
  const [, , inputHeight, inputWidth] = about.input.shape;
  const gains = [width / inputWidth, height / inputHeight, width / inputWidth, height / inputHeight];
  const found = about.output === "nms" ? unpadded(outputs) : suppressed(about, outputs);
  return { boxes: found.map((one) => ({ ...one, box: one.box.map((side, place) => side * gains[place]) })) };
}

function unpadded({ boxes, scores, labels }) {
  const found = [];
  for (let row = 0; row < scores.data.length; row++) {
    const label = Number(labels.data[row]);
    if (label >= 0) found.push({ label, score: scores.data[row], box: [...boxes.data.subarray(4 * row, 4 * row + 4)] });
  }
  return found;
}

/** Non-maximum suppression in each class: what `heads.nms.select_detections` does. */
function suppressed(about, outputs) {
  const { boxes, scores, classes } = about.output === "raw" ? decoded(about, outputs) : {
    boxes: outputs.boxes.data, scores: outputs.scores.data, classes: outputs.scores.shape[2],
  };
  const { score_threshold: least, candidates, iou_threshold: most, max_detections: count } = about.decoding.nms;
  const kept = [];
  for (let label = 0; label < classes; label++) {
    const rows = [];
    for (let row = 0; row * classes < scores.length; row++) if (scores[row * classes + label] > least) rows.push(row);
    rows.sort((a, b) => scores[b * classes + label] - scores[a * classes + label]);
    const own = [];
    for (const row of rows.slice(0, candidates)) {
      const box = [...boxes.subarray(4 * row, 4 * row + 4)];
      if (most >= 1 || own.every((better) => !(overlap(better.box, box) > most))) own.push({ label, score: scores[row * classes + label], box });
      if (own.length === count) break;
    }
    kept.push(...own);
  }
  return kept.sort((a, b) => b.score - a.score).slice(0, count);
}

/** Intersection over union of two boxes, xyxy. */
function overlap(a, b) {
  const width = Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0]));
  const height = Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  const area = ([left, top, right, bottom]) => (right - left) * (bottom - top);
  return (width * height) / (area(a) + area(b) - width * height);
}

/** Boxes, xyxy px of the input, and scores of the head's maps. */
function decoded({ anchors, decoding, input }, outputs) {
  const { raw } = decoding;
  const { data: logits, shape } = outputs.class_logits;
  const [, count, columns] = shape;
  const first = raw.background === null ? 0 : 1; // the background is column 0
  const classes = columns - first;
  const scores = new Float32Array(count * classes);
  const boxes = new Float32Array(count * 4);
  const limits = [input.shape[3], input.shape[2], input.shape[3], input.shape[2]];
  const box = "variances" in raw ? boxOfDeltas : "bins" in raw ? boxOfDistances : null;
  if (!box) throw new Error("the manifest does not say how the raw boxes are decoded; export with export.detections=decoded");
  for (let row = 0; row < count; row++) {
    const own = logits.subarray(row * columns, (row + 1) * columns);
    const values = raw.score_type === "softmax" ? softmax([...own]).slice(first) : Array.from(own, (x) => 1 / (1 + Math.exp(-x)));
    scores.set(values, row * classes);
    const sides = box(outputs, row, anchors.boxes[row], raw);
    boxes.set(sides.map((side, place) => Math.min(Math.max(side, 0), limits[place])), 4 * row);
  }
  return { boxes, scores, classes };
}

function boxOfDeltas({ box_deltas: { data } }, row, [left, top, right, bottom], { variances, largest_log_ratio: most }) {
  const [dx, dy, dw, dh] = [0, 1, 2, 3].map((place) => data[4 * row + place] * variances[place]);
  const [width, height] = [right - left, bottom - top];
  const [x, y] = [left + width / 2 + dx * width, top + height / 2 + dy * height];
  const [w, h] = [Math.exp(Math.min(dw, most)) * width, Math.exp(Math.min(dh, most)) * height];
  return [x - w / 2, y - h / 2, x + w / 2, y + h / 2];
}

function boxOfDistances({ box_distributions: { data } }, row, [left, top, right, bottom], { bins }) {
  const distances = [0, 1, 2, 3].map((side) => {
    const start = (4 * row + side) * bins;
    return softmax([...data.subarray(start, start + bins)]).reduce((sum, share, bin) => sum + share * bin, 0);
  });
  const [width, height] = [right - left, bottom - top];
  const [x, y] = [left + width / 2, top + height / 2];
  return [x - distances[0] * width, y - distances[1] * height, x + distances[2] * width, y + distances[3] * height];
}
