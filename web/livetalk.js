// The finished video takes the place of the preview: the canvas would keep the preview's last picture above it.
import { app } from "../../scripts/app.js";

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
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name.startsWith("LiveTalk") || !nodeData.output_node) return;
        const show = nodeType.prototype.onExecuted;
        nodeType.prototype.onExecuted = function (output) {
            this.imgs = undefined;
            return show?.call(this, output);
        };
    },
});
