// Runs once per painter: `element` is its root, `props.value` what the server receives.
const SIDE = 256;
const canvas = element.querySelector("canvas");
const image = element.querySelector(".board img");
const brush = element.querySelector(".brush-size input");
const context = canvas.getContext("2d");
const source = document.getElementById("SOURCE_ID");
const chinese = CHINESE;
let last = null;

function translate() {
  for (const button of element.querySelectorAll("button")) {
    button.textContent = chinese[button.textContent];
  }
  const label = element.querySelector(".brush-size").firstChild;
  label.textContent = chinese[label.textContent.trim()] + " ";
  for (const named of element.querySelectorAll("[aria-label]")) {
    named.setAttribute("aria-label", chinese[named.getAttribute("aria-label")]);
  }
  image.alt = chinese[image.alt];
}

function fit() {
  const scale = SIDE / Math.max(image.naturalWidth, image.naturalHeight);
  canvas.width = Math.ceil(image.naturalWidth * scale);
  canvas.height = Math.ceil(image.naturalHeight * scale);
  element.querySelector(".board").style.aspectRatio = image.naturalWidth + "/" + image.naturalHeight;
  props.value = "";
}

function mirror() {
  const shown = source && source.querySelector("img");
  const url = shown ? shown.src : "";
  if (image.getAttribute("src") !== url) image.setAttribute("src", url);
  element.querySelector(".board").hidden = !url;
}

function share() {
  const mask = document.createElement("canvas");
  mask.width = canvas.width;
  mask.height = canvas.height;
  const ink = mask.getContext("2d");
  ink.drawImage(canvas, 0, 0);
  ink.globalCompositeOperation = "source-in";
  ink.fillStyle = "#fff";
  ink.fillRect(0, 0, mask.width, mask.height);
  ink.globalCompositeOperation = "destination-over";
  ink.fillStyle = "#000";
  ink.fillRect(0, 0, mask.width, mask.height);
  props.value = mask.toDataURL("image/png");
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [
    ((event.clientX - box.left) / box.width) * canvas.width,
    ((event.clientY - box.top) / box.height) * canvas.height,
  ];
}

function stroke(from, to) {
  context.strokeStyle = "#ea580c";
  context.lineWidth = Number(brush.value) * 2;
  context.lineCap = "round";
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

function fill(shape) {
  const [w, h] = [canvas.width, canvas.height];
  const boxes = {
    left: [0, 0, w / 2, h],
    right: [w / 2, 0, w / 2, h],
    top: [0, 0, w, h / 2],
    bottom: [0, h / 2, w, h / 2],
    centre: [w / 4, h / 4, w / 2, h / 2],
  };
  if (shape === "clear") {
    context.clearRect(0, 0, w, h);
    props.value = "";
    return;
  }
  context.fillStyle = "#ea580c";
  context.fillRect(...boxes[shape]);
  share();
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  last = place(event);
  stroke(last, last);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last) return;
  const next = place(event);
  stroke(last, next);
  last = next;
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, () => {
    if (last) share();
    last = null;
  });
}
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-shape]");
  if (button) fill(button.dataset.shape);
});
image.addEventListener("load", fit);
if (source) {
  const changes = { subtree: true, childList: true, attributes: true, attributeFilter: ["src"] };
  new MutationObserver(mirror).observe(source, changes);
}
mirror();

if (document.documentElement.lang.startsWith("zh")) translate();
