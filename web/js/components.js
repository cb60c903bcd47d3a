// Keeps the components of MagicTailor Train together when the frontend makes a node anew.
//
// A node that is pasted, or comes out of a subgraph that is unpacked, is configured first and linked afterwards, by the
// places of its inputs. By then the frontend has put the inputs that a new node has not (component 3 and later) behind
// all others, and links meant for them are lost without a word.
import { app } from "../../../scripts/app.js";

const GROUP = "components.";

function gather(node) {
    const number = input => Number(input.name.match(/\d+$/));
    const components = node.inputs.filter(input => input.name.startsWith(GROUP));
    const others = node.inputs.filter(input => !components.includes(input));
    const first = node.inputs.indexOf(components[0]);
    components.sort((one, other) => number(one) - number(other));
    node.inputs = [...others.slice(0, first), ...components, ...others.slice(first)];
    node.inputs.forEach((input, place) => {
        const link = input.link == null ? null : node.graph?.getLink(input.link);
        if (link) link.target_slot = place;
    });
}

app.registerExtension({
    name: "MagicTailor.components",
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name.startsWith("MagicTailorTrain")) return;
        const before = nodeType.prototype.onConfigure;
        nodeType.prototype.onConfigure = function (...given) {
            before?.apply(this, given);
            gather(this);
        };
    },
});
