// The finished video takes the place of the preview: the canvas would keep the preview's last picture above it.
import { app } from "../../scripts/app.js";

app.registerExtension({
    name: "LiveTalk",
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name.startsWith("LiveTalk") || !nodeData.output_node) return;
        const show = nodeType.prototype.onExecuted;
        nodeType.prototype.onExecuted = function (output) {
            this.imgs = undefined;
            return show?.call(this, output);
        };
    },
});
