/* The preview of a contribution: each image as it will be stored, its erased corners black. The form works without it.
   All texts come from the page, in its language. */

const form = document.getElementById("contribution");
const files = document.getElementById("files");
const percent = document.getElementById("corner_percent");
const corners = [...form.querySelectorAll("input[name=corner]")];
const previews = document.getElementById("preview-images");

const MOST_PIXELS = 512; // a side of a preview
const BYTES_OF_MB = 2 ** 20;

let shown = []; // what is previewed: name, size in pixels, the image and its canvas
let reading = 0; // of the newest choice of files; an older one gives up

function textOf(key, values = {}) {
  return form.dataset[`text${key}`].replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

/* Rounded up to whole pixels of the image, as `erase` of `serving/collection/images.py` does. */
function cornerSides(image) {
  return [Math.ceil((image.width * Number(percent.value)) / 100), Math.ceil((image.height * Number(percent.value)) / 100)];
}

function draw(image) {
  const context = image.canvas.getContext("2d");
  const scale = image.canvas.width / image.width;
  context.drawImage(image.small, 0, 0);
  const [width, height] = cornerSides(image).map((side) => side * scale);
  const chosen = corners.filter((corner) => corner.checked && percent.checkValidity());
  for (const corner of chosen) {
    const [vertical, horizontal] = corner.value.split("_");
    const left = horizontal === "left" ? 0 : image.canvas.width - width;
    const top = vertical === "top" ? 0 : image.canvas.height - height;
    context.fillStyle = "#000000";
    context.fillRect(left, top, width, height);
    context.setLineDash([6, 4]);
    context.lineWidth = 2;
    context.strokeStyle = "#e69f00"; // seen on black and on grey, by the colour-blind, too
    context.strokeRect(left + 1, top + 1, width - 2, height - 2);
  }
  const names = chosen.map((corner) => corner.labels[0].textContent).join(", ") || textOf("PreviewNone");
  image.canvas.setAttribute("aria-label", textOf("PreviewImage", { file: image.name, corners: names }));
}

async function read(file) {
  // The file's own numbers, as the server takes them: a colour profile could hide what they show.
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const scale = Math.min(1, MOST_PIXELS / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.setAttribute("role", "img");
  const small = document.createElement("canvas");
  small.width = canvas.width;
  small.height = canvas.height;
  small.getContext("2d").drawImage(bitmap, 0, 0, small.width, small.height);
  const image = { name: file.name, width: bitmap.width, height: bitmap.height, small, canvas };
  bitmap.close();
  return image;
}

async function preview() {
  const turn = ++reading;
  shown = [];
  previews.replaceChildren();
  document.getElementById("preview").hidden = !files.files.length || Boolean(complaint());
  if (complaint()) return;
  for (const file of files.files) {
    const item = document.createElement("li");
    const caption = document.createElement("p");
    try {
      const image = await read(file);
      if (turn !== reading) return;
      shown.push(image);
      draw(image);
      caption.textContent = image.name;
      item.append(image.canvas, caption);
    } catch {
      // The browser cannot decode it; the server says what is wrong with it.
      if (turn !== reading) return;
      caption.textContent = textOf("PreviewUnreadable", { file: file.name });
      item.append(caption);
    }
    previews.append(item);
  }
}

function complaint() {
  const chosen = [...files.files];
  const { maxImages, maxImageMb, maxRequestMb } = form.dataset;
  if (chosen.length > Number(maxImages)) return textOf("TooMany", { limit: maxImages });
  const large = chosen.find((file) => file.size > Number(maxImageMb) * BYTES_OF_MB);
  if (large) return textOf("TooLarge", { file: large.name, limit: maxImageMb });
  const bytes = chosen.reduce((sum, file) => sum + file.size, 0);
  return bytes > Number(maxRequestMb) * BYTES_OF_MB ? textOf("TooMuch", { limit: maxRequestMb }) : "";
}

files.addEventListener("change", () => {
  files.setCustomValidity(complaint());
  files.reportValidity();
  preview();
});
for (const control of [percent, ...corners]) control.addEventListener("input", () => shown.forEach(draw));

form.addEventListener("submit", () => {
  document.getElementById("submit").disabled = true;
  document.getElementById("status").textContent = textOf("Sending");
});

// Back from the next page, the form may come out of the browser's memory as it was left.
window.addEventListener("pageshow", () => {
  document.getElementById("submit").disabled = false;
  document.getElementById("status").textContent = "";
  if (files.files.length !== shown.length) preview();
});

document.getElementById("problems")?.scrollIntoView();
