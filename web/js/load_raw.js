// Load RAW: a button and a drop target for camera files, and a small picture of the chosen one.

import { app } from "../../../scripts/app.js";
import { thumbnailUrl, uploadToInput } from "./files.js";

const THUMBNAIL_HEIGHT = 160;

function tell(severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "Load RAW", detail, life: 12000 });
}

/** Browsers know no media type for most RAW files, so the ending of the name decides. */
function isRaw(file, endings) {
  const name = file.name.toLowerCase();
  return endings.some((ending) => name.endsWith(ending));
}

function choose(node, combo, name) {
  const { values } = combo.options;
  if (Array.isArray(values) && !values.includes(name)) values.unshift(name);
  combo.value = name;
  combo.callback?.(name);
  node.graph?.setDirtyCanvas(true, true);
}

async function take(node, combo, endings, files) {
  const raws = [...files].filter((file) => isRaw(file, endings));
  if (!raws.length) {
    tell("warn", `Expected a camera RAW (${endings.join(" ")}), found another kind of file.`);
    return false;
  }
  for (const file of raws) {
    try {
      choose(node, combo, await uploadToInput(file));
    } catch (error) {
      tell("error", error.message);
    }
  }
  return true;
}

function addThumbnail(node, combo) {
  const picture = document.createElement("img");
  Object.assign(picture.style, {
    width: "100%", height: "100%", objectFit: "contain", display: "none",
  });
  picture.alt = "";
  picture.onload = () => { picture.style.display = "block"; };
  picture.onerror = () => { picture.style.display = "none"; };
  const widget = node.addDOMWidget("thumbnail", "ldmsid_thumbnail", picture, {
    serialize: false, hideOnZoom: false, getMinHeight: () => THUMBNAIL_HEIGHT,
  });
  widget.serialize = false;
  const show = () => { if (combo.value) picture.src = thumbnailUrl(combo.value); };
  const { callback } = combo;
  combo.callback = function (...args) {
    const result = callback?.apply(this, args);
    show();
    return result;
  };
  const { onConfigure } = node;
  node.onConfigure = function (...args) {
    const result = onConfigure?.apply(this, args);
    show();
    return result;
  };
  show();
}

function addUpload(node, combo, endings) {
  const picker = document.createElement("input");
  Object.assign(picker, { type: "file", accept: endings.join(","), multiple: true });
  picker.onchange = async () => {
    const files = [...picker.files];
    picker.value = "";
    if (files.length) await take(node, combo, endings, files);
  };
  const button = node.addWidget("button", "upload_raw", null, () => picker.click(), {
    serialize: false,
  });
  button.label = "choose a RAW file to upload";
  button.serialize = false;
  node.onDragOver = (event) =>
    [...(event.dataTransfer?.items ?? [])].some((item) => item.kind === "file");
  node.onDragDrop = (event) => take(node, combo, endings, event.dataTransfer.files);
}

app.registerExtension({
  name: "ldmsid.load_raw",
  nodeCreated(node) {
    const inputs = node.constructor.nodeData?.input?.required ?? {};
    for (const [name, spec] of Object.entries(inputs)) {
      const endings = spec?.[1]?.ldmsid_upload;
      const combo = node.widgets?.find((widget) => widget.name === name);
      if (!endings || !combo) continue;
      addUpload(node, combo, endings);
      addThumbnail(node, combo);
    }
  },
});
