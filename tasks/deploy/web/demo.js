// The page of a demo: pictures, videos and the camera through one artifact.

import { prediction } from "./decode.js";
import { draw } from "./draw.js";
import { networkInput } from "./resize.js";
import { abilities, openModel } from "./runtimes.js";

const THREADS = 4; // at most
const $ = (id) => document.getElementById(id);
const state = { about: null, model: null, last: null, stop: null, busy: false, least: null };

/** Run the artifact on a picture: what it finds, and the ms of the network and of all. */
export async function predict(picture) {
  const start = performance.now();
  const input = networkInput(picture, state.about);
  const before = performance.now();
  const outputs = await state.model.run(input);
  const after = performance.now();
  const found = prediction(state.about, outputs, [picture.height, picture.width]);
  return { found, network: after - before, all: performance.now() - start };
}

/** Pixels of an image, a video or a bitmap. */
export function pixelsOf(source, width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** Decode a file of a picture as the toolkit does: turned as its EXIF says, its colours as they are. */
export async function readPicture(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  return pixelsOf(bitmap, bitmap.width, bitmap.height);
}

async function show(picture) {
  const { found, network, all } = await predict(picture);
  state.last = { picture, found };
  redraw();
  $("status").textContent = `${network.toFixed(1)} ms network, ${all.toFixed(1)} ms with resizing and decoding`;
}

function redraw() {
  const { picture, found } = state.last;
  const lines = draw($("canvas"), picture, found, state.about.classes, state.least);
  $("list").replaceChildren(...lines.map(entry));
}

function entry({ color, name, value, share }) {
  const item = document.createElement("li");
  item.style.setProperty("--color", color);
  item.style.setProperty("--share", share);
  for (const [tag, text] of [["b", name], ["span", value]]) item.appendChild(document.createElement(tag)).textContent = text;
  return item;
}

const trouble = (error) => ($("status").textContent = `${error?.message || error}`);

async function openFile(file) {
  halt();
  if (file.type.startsWith("video/")) return play({ src: URL.createObjectURL(file), loop: true });
  return show(await readPicture(file));
}

async function openCamera() {
  halt();
  if (!navigator.mediaDevices) throw new Error("a camera needs https, or localhost");
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  return play({ srcObject: stream }, () => stream.getTracks().forEach((track) => track.stop()));
}

/** Show frames as fast as the network takes them, until `halt`. */
async function play(source, end = () => {}) {
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true }, source);
  let going = true;
  state.stop = () => {
    going = false;
    video.pause();
    end();
  };
  $("stop").hidden = false;
  await video.play();
  while (going) {
    if (video.videoWidth) await show(pixelsOf(video, video.videoWidth, video.videoHeight));
    await new Promise(requestAnimationFrame);
  }
}

function halt() {
  state.stop?.();
  state.stop = null;
  $("stop").hidden = true;
}

async function useDevice() {
  const { cores, isolated } = await abilities();
  const device = $("device").value;
  const threads = device === "wasm" && isolated ? Math.min(THREADS, cores) : 1;
  const { backend: format, artifact: url, input, outputs } = state.about;
  await state.model?.close();
  state.model = null;
  state.model = await openModel({ format, device, threads, url: new URL(url, location.href).href, input, outputs });
  const [, channels, height, width] = input.shape;
  await state.model.run(new (input.dtype === "uint8" ? Uint8Array : Float32Array)(channels * height * width)); // warm-up
  $("about").textContent = `${state.about.words}; ${device === "wasm" ? `${threads} thread${threads > 1 ? "s" : ""}` : "WebGPU"}`;
  $("status").textContent = "ready";
}

function listen() {
  const guarded = (job) => (...words) => Promise.resolve(job(...words)).catch(trouble);
  const first = (files) => files?.[0] && guarded(openFile)(files[0]);
  $("file").addEventListener("change", (event) => first(event.target.files));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => (event.preventDefault(), first(event.dataTransfer.files)));
  $("camera").addEventListener("click", guarded(openCamera));
  $("stop").addEventListener("click", halt);
  $("device").addEventListener("change", guarded(async () => {
    halt();
    await useDevice();
    if (state.last) await show(state.last.picture);
  }));
  $("least").addEventListener("input", () => {
    state.least = Number($("least").value);
    $("least-value").textContent = state.least.toFixed(2);
    if (state.last) redraw();
  });
}

/** Keep the page for use without a network; where that isolates it as well, threads come with a second loading. */
async function keep() {
  if (!navigator.serviceWorker) return; // neither https nor localhost
  await navigator.serviceWorker.register("worker.js");
  await navigator.serviceWorker.ready;
  if (crossOriginIsolated || sessionStorage.getItem("loaded again")) return;
  sessionStorage.setItem("loaded again", "yes");
  location.reload();
  await new Promise(() => {});
}

async function main() {
  await keep().catch(() => null);
  state.about = await (await fetch("demo.json")).json();
  document.title = $("title").textContent = state.about.title;
  $("least-control").hidden = state.about.kind !== "detection";
  $("least-value").textContent = state.about.classes.thresholds ? "of each class" : "0.30";
  const { webgpu } = await abilities();
  for (const device of webgpu ? ["wasm", "webgpu"] : ["wasm"]) $("device").add(new Option(device, device));
  listen();
  await useDevice();
  document.body.dataset.state = "ready";
}

/** Resolves once the page is ready for pictures. */
export const ready = main();
ready.catch(trouble);
