// Compare images: before and after under a slider that follows the pointer.

import { app } from "../../../scripts/app.js";
import { pictureUrl } from "./files.js";

const HEIGHT = 280;
const FILL = { position: "absolute", inset: "0", width: "100%", height: "100%", objectFit: "contain" };

function layer(parent) {
  const picture = document.createElement("img");
  Object.assign(picture.style, FILL, { pointerEvents: "none", display: "none" });
  picture.draggable = false;
  parent.append(picture);
  return picture;
}

function buildSlider() {
  const root = document.createElement("div");
  root.className = "ldmsid-compare";
  Object.assign(root.style, {
    position: "relative", width: "100%", height: "100%", overflow: "hidden", cursor: "ew-resize",
  });
  const after = layer(root);
  const before = layer(root);
  const line = document.createElement("div");
  Object.assign(line.style, {
    position: "absolute", top: "0", bottom: "0", width: "2px", background: "white",
    boxShadow: "0 0 3px black", pointerEvents: "none", display: "none",
  });
  root.append(line);
  const moveTo = (share) => {
    const percent = Math.min(100, Math.max(0, 100 * share));
    before.style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
    line.style.left = `calc(${percent}% - 1px)`;
  };
  root.addEventListener("pointermove", (event) => {
    const { left, width } = root.getBoundingClientRect();
    if (width) moveTo((event.clientX - left) / width);
  });
  moveTo(0.5);
  const show = (pictures) => {
    [before.src, after.src] = pictures.map(pictureUrl);
    for (const element of [before, after, line]) element.style.display = "block";
  };
  return { root, show };
}

app.registerExtension({
  name: "ldmsid.compare_images",
  nodeCreated(node) {
    if (node.comfyClass !== "LDMSID_CompareImages") return;
    const { root, show } = buildSlider();
    const widget = node.addDOMWidget("compare", "ldmsid_compare", root, {
      serialize: false, hideOnZoom: false, getMinHeight: () => HEIGHT,
    });
    widget.serialize = false;
    const { onExecuted } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      if (output?.ldmsid_compare?.length === 2) show(output.ldmsid_compare);
    };
  },
});
