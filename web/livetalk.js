// What ComfyUI's own widgets cannot show: what of a portrait a video keeps, the finished video alone, what a run has said.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const SIDE = 300; // of the portrait's picture, in pixels of its canvas
const GROWN = [500, 1500, 4000]; // ms after a video is told of, when it has come
const PICTURE = "$$canvas-image-preview"; // the frontend's name of a preview's widget
// As browsers are asked for them; what is not named here none of them plays.
const TYPES = { h265: 'video/mp4; codecs="hvc1.1.6.L120.90"', av1: 'video/mp4; codecs="av01.0.08M.08"' };

app.registerExtension({
    name: "LiveTalk",
    settings: [
        {
            id: "LiveTalk.PlaceExamples",
            name: "Put the example portrait and speech into the input folder when ComfyUI starts",
            type: "boolean",
            defaultValue: true,
        },
    ],
    setup() {
        api.addEventListener("b_preview_with_metadata", dropVideoForPreview);
        api.addEventListener("progress_text", keepText);
        for (const end of ["execution_success", "execution_error", "execution_interrupted"]) api.addEventListener(end, () => setTimeout(sayAgain));
        api.addEventListener("executed", offerUnplayable);
        api.addEventListener("executed", showOutside);
        api.addEventListener("livetalk_shown", showAgain);
    },
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name.startsWith("LiveTalk")) return;
        if (nodeData.output_node) showVideoAlone(nodeType);
        if (nodeData.name === "LiveTalkAvatar") showCrop(nodeType);
    },
});

// The finished video takes the place of the preview: the canvas would keep the preview's last picture above it, then its
// empty room, and the node would not grow to hold the video, which comes a while later.
function showVideoAlone(nodeType) {
    const show = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
        dropPicture(this);
        this.livetalkVideo = Boolean(output?.animated?.[0]);
        this.previewMediaType = this.livetalkVideo ? "video" : undefined; // the node around it would take it for a picture
        for (const later of GROWN) setTimeout(() => grow(this), later);
        return show?.call(this, output);
    };
}

function dropPicture(node) {
    node.imgs = undefined;
    dropWidget(node, PICTURE);
}

function dropWidget(node, name) {
    const place = node.widgets?.findIndex((widget) => widget.name === name) ?? -1;
    if (place < 0) return;
    if (node.isSubgraphNode?.()) return node.removeWidget(node.widgets[place]); // its list is a copy
    node.widgets[place].onRemove?.();
    node.widgets.splice(place, 1);
}

// Where the video of the run before still plays, Nodes 2.0 would take a run's preview for it, and show an error, and the
// canvas would not show the preview: that video goes first.
function dropVideoForPreview({ detail }) {
    const id = String(detail.displayNodeId ?? detail.nodeId);
    if (!nodeOf(id)?.type?.startsWith("LiveTalk")) return;
    const around = nodesAround(id);
    if (nodeOf(id).livetalkVideo) {
        api.dispatchCustomEvent("executed", { node: id, display_node: id, output: {}, prompt_id: detail.jobId });
        for (const { node } of [{ node: nodeOf(id) }, ...around]) {
            node.previewMediaType = node.videoContainer = undefined;
            dropWidget(node, "video-preview");
        }
    }
    for (const { node, inner } of around) LiteGraph.vueNodesMode ? expose(node, inner) : showPicture(node);
}

// What stands for a node in subgraphs: for "12:7:3" the nodes "12" and "12:7", each with the id of the next one inside.
function nodesAround(id) {
    const parts = id.split(":");
    const ids = parts.slice(1).map((inner, place) => ({ id: parts.slice(0, place + 1).join(":"), inner }));
    return ids.map((each) => ({ ...each, node: nodeOf(each.id) })).filter(({ node }) => node);
}

// In Nodes 2.0 a subgraph's node shows what it exposes. A blueprint says so, but frontend 1.58 loses it where the nodes
// inside get other ids in the user's graph.
function expose(node, inner) {
    if (node.livetalkExposes === inner) return;
    node.livetalkExposes = inner;
    const exposed = node.serialize().properties?.previewExposures ?? [];
    if (exposed.some(({ sourceNodeId }) => String(sourceNodeId) === inner)) return;
    const kept = exposed.filter(({ sourceNodeId }) => node.subgraph.getNodeById(Number(sourceNodeId)));
    const name = kept.some((each) => each.name === PICTURE) ? `${PICTURE}_${inner}` : PICTURE;
    node.properties.previewExposures = [...kept, { name, sourceNodeId: inner, sourcePreviewName: PICTURE }];
    node._hydratePreviewExposures?.();
}

// Of a video made inside of a subgraph the canvas shows nothing on the subgraph's node, unless told of it as the node's
// own. Nodes 2.0 shows what the node exposes.
function showOutside({ detail }) {
    const id = String(detail.display_node ?? detail.node);
    const node = nodeOf(id);
    if (!node?.type?.startsWith("LiveTalk") || !node.constructor.nodeData?.output_node) return;
    for (const around of nodesAround(id)) {
        if (!node.livetalkVideo && around.node.livetalkShows !== id) continue; // another one's video
        around.node.livetalkShows = id;
        dropPicture(around.node);
        for (const later of GROWN) setTimeout(() => grow(around.node), later);
        api.dispatchCustomEvent("executed", { ...detail, display_node: around.id });
    }
}

// The canvas gives the picture of a preview to a subgraph's node, too, but no room to draw it in.
function showPicture(node) {
    if (node.widgets.some((widget) => widget.name === PICTURE)) return;
    node.addCustomWidget({
        name: PICTURE,
        type: "livetalk_picture",
        value: "",
        options: { serialize: false },
        serialize: false,
        computeLayoutSize: () => ({ minWidth: 1, minHeight: SIDE }),
        draw(pen, { imgs }, width, top) {
            const picture = imgs?.[0];
            if (!picture?.naturalWidth) return;
            const scale = Math.min(width / picture.naturalWidth, this.computedHeight / picture.naturalHeight);
            const [wide, high] = [picture.naturalWidth * scale, picture.naturalHeight * scale];
            pen.drawImage(picture, (width - wide) / 2, top, wide, high);
        },
    });
    grow(node);
}

// A video that this browser does not play is offered as a file: the page would show an error. Told once more without it,
// the page drops it before it is drawn.
function offerUnplayable({ detail }) {
    const { livetalk_codec, images, animated, ...rest } = detail.output ?? {};
    const [codec] = livetalk_codec ?? [];
    if (!codec || document.createElement("video").canPlayType(TYPES[codec] ?? "")) return;
    queueMicrotask(() => api.dispatchCustomEvent("executed", { ...detail, output: rest }));
    const [file] = rest.livetalk_video ?? images ?? [];
    if (!file || file.filename.includes(".partial.")) return; // the node says how to go on
    const place = new URLSearchParams(Object.entries(file).filter(([, value]) => value));
    const url = new URL(api.apiURL(`/view?${place}`), location.href);
    say(String(detail.display_node ?? detail.node), `${codec}, which this browser does not play: ${url}`);
}

// What our nodes have said, by id. Newer frontends take it away when a run ends: where a stopped video lies, how to go
// on with it, what of the graph had no effect.
const said = new Map();

function keepText({ detail }) {
    const id = String(detail.nodeId);
    const node = nodeOf(id);
    if (!node?.type?.startsWith("LiveTalk")) return;
    said.set(id, { node, text: detail.text });
    if (!node.constructor.nodeData?.output_node) return;
    // What looks for the node of such an id looks in the graph that is on the page.
    for (const around of nodesAround(id)) if (around.node.graph === app.canvas.graph) say(around.id, detail.text);
}

function sayAgain() {
    for (const [id, { node, text }] of said)
        if (nodeOf(id) === node) say(id, text);
        else said.delete(id);
}

// What a node has given, told once more by the server, seconds after its run: not to a node of another graph.
function showAgain({ detail }) {
    const id = String(detail.display_node ?? detail.node);
    const ran = said.get(id)?.node;
    if (ran && ran === nodeOf(id)) api.dispatchCustomEvent("executed", detail);
}

function say(nodeId, text) {
    api.dispatchCustomEvent("progress_text", { nodeId, text });
}

// The node of an id like "7", or "12:7" within subgraphs.
function nodeOf(id) {
    const inside = (node, part) => (node?.subgraph ?? node)?.getNodeById?.(Number(part));
    return id.split(":").reduce(inside, app.rootGraph ?? app.graph);
}

function grow(node) {
    const [, height] = node.computeSize();
    if (node.graph && node.size[1] < height) node.setSize([node.size[0], height]);
}

// The portrait on the Avatar node, what will be cut away darkened; drawing a box on it chooses another part.
function showCrop(nodeType) {
    const created = nodeType.prototype.onNodeCreated;
    nodeType.prototype.onNodeCreated = function () {
        const result = created?.call(this);
        new CropView(this);
        return result;
    };
    const show = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
        const [portrait] = output?.livetalk_portrait ?? [];
        if (portrait) this.livetalkCrop?.show(portrait);
        return show?.call(this, output);
    };
}

class CropView {
    constructor(node) {
        this.node = node;
        node.livetalkCrop = this;
        this.canvas = document.createElement("canvas");
        this.canvas.className = "livetalk-crop";
        this.canvas.style.cssText = "width: 100%; height: 100%; max-height: 180px; object-fit: contain; cursor: crosshair; display: none";
        this.image = new Image();
        this.image.addEventListener("load", () => this.draw());
        const options = { serialize: false, hideOnZoom: false, getMinHeight: () => (this.portrait ? 160 : 0), getMaxHeight: () => (this.portrait ? 400 : 0) };
        const widget = node.addDOMWidget("livetalk_crop_view", "livetalk_crop", this.canvas, options);
        widget.serialize = false;
        for (const [kind, take] of [["pointerdown", this.press], ["pointermove", this.drag], ["pointerup", this.lift], ["lostpointercapture", this.lift]])
            this.canvas.addEventListener(kind, (event) => take.call(this, event));
        this.watch = setInterval(() => this.look(), 400);
        const removed = node.onRemoved;
        node.onRemoved = (...rest) => {
            clearInterval(this.watch);
            return removed?.apply(node, rest);
        };
    }

    // Widgets and links change without a word; a look now and then costs nothing.
    look() {
        const linked = this.linked();
        if (linked && linked !== this.looked) this.show(readName(linked), linked);
        const settings = JSON.stringify([this.value("width"), this.value("height"), this.crop()]);
        if (settings !== this.settings) this.draw();
        this.settings = settings;
    }

    // What a Load Image in front of the node has chosen; the run itself tells of what comes from elsewhere.
    linked() {
        const slot = this.node.inputs?.findIndex((input) => input.name === "image");
        const origin = slot >= 0 ? this.node.getInputNode?.(slot) : null;
        const widget = origin?.type?.startsWith("LoadImage") && origin.widgets?.find((each) => each.name === "image");
        return typeof widget?.value === "string" ? widget.value : "";
    }

    show(portrait, looked = this.looked) {
        const first = !this.portrait;
        this.portrait = portrait;
        this.looked = looked;
        const { filename, subfolder, type } = portrait;
        this.image.src = api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
        this.canvas.style.display = "block";
        if (first) grow(this.node);
    }

    value(name) {
        const input = this.node.inputs?.find((each) => each.name === name);
        return input?.link != null ? null : this.node.widgets?.find((each) => each.name === name)?.value;
    }

    set(name, value) {
        const widget = this.node.widgets?.find((each) => each.name === name);
        if (!widget) return;
        widget.value = value;
        widget.callback?.(value);
    }

    crop() {
        return this.value("crop") === "box" ? this.value("crop_box") || "center" : this.value("crop");
    }

    // The portrait's own size, of which the picture may be a smaller copy.
    size() {
        return [Number(this.portrait.width) || this.image.naturalWidth, Number(this.portrait.height) || this.image.naturalHeight];
    }

    // The kept part, in the portrait's pixels: as livetalk_core/media/crop.py has it.
    kept() {
        const [width, height] = this.size();
        const numbers = /^\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*$/.exec(this.crop() ?? "");
        const [left, top, wide, high] = numbers ? numbers.slice(1).map(Number) : [0, 0, width, height];
        const frame = [this.value("width"), this.value("height")];
        if (!frame[0] || !frame[1]) return [left, top, wide, high];
        const scale = Math.max(frame[0] / wide, frame[1] / high);
        const [across, down] = [frame[0] / scale, frame[1] / scale];
        return [left + (wide - across) / 2, this.crop() === "top" ? top : top + (high - down) / 2, across, down];
    }

    draw() {
        if (!this.portrait || !this.image.naturalWidth) return;
        const [width, height] = this.size();
        const scale = SIDE / Math.max(width, height);
        [this.canvas.width, this.canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
        const [left, top, wide, high] = this.kept().map((pixels) => pixels * scale);
        const pen = this.canvas.getContext("2d");
        pen.drawImage(this.image, 0, 0, this.canvas.width, this.canvas.height);
        pen.fillStyle = "rgba(0, 0, 0, 0.65)";
        pen.beginPath();
        pen.rect(0, 0, this.canvas.width, this.canvas.height);
        pen.rect(left, top, wide, high);
        pen.fill("evenodd");
        pen.strokeStyle = "white";
        pen.strokeRect(left + 0.5, top + 0.5, wide - 1, high - 1);
    }

    // Where a pointer is, in the portrait's pixels.
    place(event) {
        const box = this.canvas.getBoundingClientRect();
        const [width, height] = this.size();
        const scale = Math.min(box.width / width, box.height / height);
        const inside = (at, start, room, side) => (at - start - (room - side * scale) / 2) / scale;
        const [x, y] = [inside(event.clientX, box.left, box.width, width), inside(event.clientY, box.top, box.height, height)];
        return [Math.min(Math.max(0, x), width), Math.min(Math.max(0, y), height)];
    }

    press(event) {
        if (!this.portrait || event.button) return;
        event.stopPropagation();
        event.preventDefault();
        this.canvas.setPointerCapture(event.pointerId);
        this.start = this.place(event);
        app.canvas.emitBeforeChange(); // drawn, it is one step to undo
    }

    drag(event) {
        if (!this.start) return;
        event.stopPropagation();
        const end = this.place(event);
        const corner = this.start.map((at, axis) => Math.round(Math.min(at, end[axis])));
        const sides = this.start.map((at, axis) => Math.round(Math.abs(at - end[axis])));
        if (Math.min(...sides) < 64) return; // smaller than the node takes: a click, or a slip
        this.set("crop", "box");
        this.set("crop_box", [...corner, ...sides].join(","));
        this.draw();
    }

    lift(event) {
        if (!this.start) return;
        event.stopPropagation();
        this.start = undefined;
        app.canvas.emitAfterChange();
    }
}

// `folder/name.png [output]`, as Load Image has it.
function readName(value) {
    const [, path, type] = /^(.*?)(?: \[(\w+)\])?$/.exec(value);
    const parts = path.split("/");
    return { filename: parts.pop(), subfolder: parts.join("/"), type: type ?? "input" };
}
