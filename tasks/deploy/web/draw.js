// Boxes, masks and likeliest classes over a picture, in the names and colours of the classes.

const OPACITY = 0.5;
const CLEAR = 1200; // px of the longer side up to which small pictures are enlarged, for lines and letters
const [LINE, LETTER] = [2, 14]; // px of the screen
const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
const ink = ([red, green, blue]) => (0.299 * red + 0.587 * green + 0.114 * blue > 130 ? "#000" : "#fff");
const percent = (share) => `${(100 * share).toFixed(1)} %`;

/**
 * Draw a prediction.
 *
 * @param canvas Gets the picture's size, or a multiple of it.
 * @param picture ImageData.
 * @param found As `prediction` of decode.js gives it.
 * @param classes {names, palette, thresholds} of the manifest.
 * @param least Score from which on boxes are shown; null for the thresholds of the classes.
 * @returns Lines for the list beside it: [{color, name, value}].
 */
export function draw(canvas, picture, found, classes, least) {
  const factor = Math.max(1, Math.floor(CLEAR / Math.max(picture.width, picture.height)));
  [canvas.width, canvas.height] = [picture.width * factor, picture.height * factor];
  const context = canvas.getContext("2d");
  context.drawImage(layerOf(picture), 0, 0, canvas.width, canvas.height);
  if (found.boxes) return drawBoxes(context, found.boxes, classes, least, factor);
  if (found.mask) return drawMask(context, found.mask, picture, classes);
  const order = found.scores.map((_, label) => label).sort((a, b) => found.scores[b] - found.scores[a]);
  return order.slice(0, 5).map((label) => line(classes, label, percent(found.scores[label]), found.scores[label]));
}

function layerOf(pixels) {
  const layer = document.createElement("canvas");
  [layer.width, layer.height] = [pixels.width, pixels.height];
  layer.getContext("2d").putImageData(pixels, 0, 0);
  return layer;
}

const line = ({ names, palette }, label, value, share) => ({ color: css(palette[label]), name: names[label], value, share });

function drawBoxes(context, boxes, classes, least, factor) {
  const { width, height } = context.canvas;
  const shown = boxes.filter(({ score, label }) => score >= (least ?? classes.thresholds?.[label] ?? 0.3));
  const { clientWidth, clientHeight } = context.canvas;
  const unit = Math.max(width / (clientWidth || width), height / (clientHeight || height)); // a px of the screen
  const [thick, letter] = [Math.max(2, Math.round(LINE * unit)), Math.round(LETTER * unit)];
  context.font = `600 ${letter}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  for (const { box, label, score } of [...shown].reverse()) {
    const [left, top, right, bottom] = box.map((side) => side * factor);
    const color = classes.palette[label];
    context.lineJoin = "round";
    for (const [style, extra] of [["rgb(20 20 20 / 0.7)", 2], [css(color), 0]]) {
      [context.strokeStyle, context.lineWidth] = [style, thick + extra];
      context.strokeRect(left, top, right - left, bottom - top);
    }
    const text = `${classes.names[label]} ${score.toFixed(2)}`;
    const [wide, high] = [context.measureText(text).width + letter * 0.7, letter * 1.35];
    const x = Math.min(Math.max(0, left - thick / 2), Math.max(0, width - wide));
    const y = top - high >= 0 ? top - high : Math.min(Math.max(0, top), height - high);
    context.fillStyle = css(color);
    context.fillRect(x, y, wide, high);
    context.fillStyle = ink(color);
    context.fillText(text, x + letter * 0.35, y + high * 0.54);
  }
  return shown.map(({ label, score }) => line(classes, label, score.toFixed(2), score));
}

function drawMask(context, mask, { width, height }, classes) {
  const colors = new ImageData(width, height);
  const counts = new Map();
  for (let place = 0; place < mask.length; place++) {
    const label = mask[place];
    const color = classes.palette[label];
    if (!color) continue; // a number without a class
    counts.set(label, (counts.get(label) || 0) + 1);
    colors.data.set(color, 4 * place);
    colors.data[4 * place + 3] = 255;
  }
  context.globalAlpha = OPACITY;
  context.imageSmoothingEnabled = false;
  context.drawImage(layerOf(colors), 0, 0, context.canvas.width, context.canvas.height);
  context.globalAlpha = 1;
  const order = [...counts.entries()].sort((a, b) => b[1] - a[1]);
  return order.map(([label, count]) => line(classes, label, percent(count / mask.length), count / mask.length));
}
