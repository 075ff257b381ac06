"""What each rank computes and sends in a step of the 14B transformer's first blocks, against the least possible.

    python -m benchmarks.parallel_work [--ranks 1 2 3 4 5 8] [--size 448x768] [--write]

Nothing is computed: the split model runs on the meta device, once for every rank, and its collectives only note their
sizes. `--write` keeps the record in docs/figures/parallel_work.json and the table in docs/parallel_work.md.

Least work: 1/N of the whole. Least bytes of a mesh: an N-th of the tokens, without padding, four times (queries, keys,
values, result), of which all leave the rank but its own heads' part; and its keys and values once for each hop.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import overlap
from livetalk_core.commands.options import size
from livetalk_core.config import TransformerConfig
from livetalk_core.errors import InputError
from livetalk_core.hardware.memory import weight_bytes
from livetalk_core.hardware.placement import Placement, residence
from livetalk_core.models.transformer import Transformer
from livetalk_core.parallel.imagined import imagined_mesh, imagining
from livetalk_core.parallel.mesh import Mesh, degrees
from livetalk_core.parallel.sequence import Share, split_sequence
from livetalk_core.parallel.weights import sharded_bytes
from livetalk_core.presets import PRESETS
from livetalk_core.shapes import LatentShape, VideoShape

BLOCKS = 2
"""How many of the 40 blocks are counted: they are all alike."""
DOCS = Path(__file__).resolve().parent.parent / "docs"
FP8 = (
    "",
    "## Sent as FP8",
    "",
    "`--send-fp8` sends queries, keys, values and results as FP8 (e4m3), with two more bytes for the scale of each "
    "token's vector in each head: for GPUs that talk over PCIe. It costs exactness. The embedded model's latent of the "
    "demo's first chunk (128x128, 4 steps, 2 ranks) is 3.1 % off, root mean square: "
    "`python -m benchmarks.fp8_exchange`.",
)
SHARDED = (
    "",
    "## Sharded weights",
    "",
    "Bytes of bfloat16 weights that a rank holds with `--shard-weights`: at rest, and gathered beside at most (two "
    "layers' weights). Biases, norms, modulations, the patch embedding and layers of less than 1,024 values are not "
    "split. The bound is 1.1/N of the whole and one block.",
    "",
    "| model | ranks | at rest | of 1/N | gathered | of a block | sum | bound |",
    "|---|---|---|---|---|---|---|---|",
)

MEMORY = (
    "",
    "## Memory of a rank",
    "",
    "What each rank of the 14B model holds at that size in bfloat16 with whole weights, counted on the meta device as "
    "`info` counts one device: each part's working memory beside the weights, the largest of them at once. With "
    "`--memory`, so many of the 40 blocks stay on each device, and the others are streamed from main memory.",
    "",
    "| ulysses x ring | weights, GB | context | step | VAE decode | VAE encode | margin | at once | --memory 12G | 16G "
    "| 22G |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)
BUDGETS = (12, 16, 22)
"""GiB of `--memory`."""
OVERLAP = (
    "",
    "## Exchange beside attention",
    "",
    "A ring passes its keys and values on while it attends to those it has. Ulysses does so with `--overlap PIECES`: a "
    "piece of the heads is exchanged while another one is attended. Two CPU processes of one thread each, the embedded "
    "model's widths, 33 frames of 384x384, between two network namespaces with a link of 1 Gbit/s, and over the "
    "loopback, where the cores that attend also move the bytes. Medians of both ranks' steps, traced by "
    "`python -m benchmarks.overlap` ([overlap.json](figures/overlap.json)): in flight, while at least one exchange "
    "was begun and had not ended; waited, while a rank did nothing but wait for one.",
)


def step(
    config: TransformerConfig, shape: LatentShape, mesh: Mesh | None, send_fp8: bool = False
) -> tuple[int, Counter[str]]:
    """Floating-point operations and bytes sent of one rank's forward; of the whole model without a mesh."""
    with imagining() as sent, torch.device("meta"), torch.inference_mode():
        model = Transformer(config, dtype=torch.bfloat16)
        context = model.embed_context(torch.empty(1, 1, config.text_dim), torch.empty(1, 257, config.clip_dim))
        frames = shape.video(config.geometry).frames
        windows = (1, frames, config.audio_window, config.audio_blocks, config.audio_channels)
        audio = model.embed_audio(torch.empty(windows))
        if mesh is not None:
            split_sequence(model, mesh, send_fp8)
        latent = torch.empty(1, config.out_dim, *shape)
        cond = torch.empty(1, config.in_dim - config.out_dim, *shape)
        with FlopCounterMode(display=False) as counter:
            model(latent, torch.empty(1), cond, context, audio)
    return counter.get_total_flops(), sent


def count(config: TransformerConfig, shape: LatentShape, ranks: int, ulysses: int, single: int) -> dict[str, Any]:
    """The busiest rank's work and bytes of one mesh."""
    meshes = [imagined_mesh(ulysses, ranks // ulysses, rank) for rank in range(ranks)]
    flops, sent = zip(*(step(config, shape, mesh) for mesh in meshes), strict=True)
    sent_fp8 = [step(config, shape, mesh, send_fp8=True)[1] for mesh in meshes]
    tokens = Share(shape.grid(config.geometry), meshes[0]).size
    per_block, fp8 = (
        {name: max(each[name] for each in ways) / config.num_layers for name in ("all-to-all", "hops")}
        for ways in (sent, sent_fp8)
    )
    return {
        "ranks": ranks,
        "ulysses": ulysses,
        "ring": ranks // ulysses,
        "tokens": tokens,
        "flops": max(flops),
        "work": max(flops) * ranks / single,
        "all_to_all_bytes_per_block": per_block["all-to-all"],
        "ring_bytes_per_block": per_block["hops"],
        "sent_bytes_per_block": per_block["all-to-all"] + per_block["hops"],
        **least_bytes(
            shape.tokens(config.geometry) / ranks * config.dim * torch.bfloat16.itemsize, ulysses, ranks // ulysses
        ),
        "fp8_bytes_per_block": fp8["all-to-all"] + fp8["hops"],
        "join_bytes_per_step": max(each["gather"] for each in sent),
    }


def least_bytes(share: float, ulysses: int, ring: int) -> dict[str, float]:
    """The least that a rank, whose tokens take `share` bytes, sends in a block of this mesh.

    And what it would send if ranks gathered the tokens themselves, each projected its own heads' queries, keys and
    values, and only the results were exchanged.
    """
    ranks = ulysses * ring
    return {
        "least_bytes_per_block": share * (4 * (ulysses - 1) / ulysses + 2 * (ring - 1)),
        "gathered_bytes_per_block": share * (ranks - 1) * (1 + 1 / ranks),
    }


def record(counts: Sequence[int], height: int, width: int) -> dict[str, Any]:
    """Every mesh of every number of ranks."""
    preset = PRESETS["14b"]
    config = replace(preset.transformer, num_layers=BLOCKS)
    shape = VideoShape(preset.stream.frame_num, height, width).latent(preset.geometry)
    single, _ = step(config, shape, None)
    meshes = [(ranks, ulysses) for ranks in counts for ulysses, _ in degrees(ranks, config.num_heads)]
    rows = [count(config, shape, ranks, ulysses, single) for ranks, ulysses in meshes]
    return {
        "preset": "14b",
        "size": [width, height],
        "tokens": shape.tokens(preset.geometry),
        "blocks": BLOCKS,
        "whole_flops": single,
        "meshes": rows,
        "memory": [memory(*degrees(ranks, config.num_heads)[0], (height, width)) for ranks in counts],
        "sharded": [sharded(name, ranks) for name in ("14b", "nano") for ranks in counts if ranks > 1],
    }


def sharded(preset: str, ranks: int) -> dict[str, Any]:
    """What a rank holds of sharded bfloat16 weights, at rest and gathered beside, and what all and a block weigh."""
    with torch.device("meta"):
        model = Transformer(PRESETS[preset].transformer, dtype=torch.bfloat16)
    at_rest, gathered = sharded_bytes(model, ranks)
    weights = {"whole": weight_bytes(model), "block": weight_bytes(model.blocks[0])}
    return {"preset": preset, "ranks": ranks, "at_rest": at_rest, "gathered": gathered, **weights}


def memory(ulysses: int, ring: int, size: tuple[int, int]) -> dict[str, Any]:
    """What a rank of the 14B model needs with whole weights, and how many blocks stay with how much memory."""
    preset, dtype = PRESETS["14b"].sized(size), torch.bfloat16
    plain = residence(preset, dtype, Placement(), (ulysses, ring))
    kept = []
    for budget in BUDGETS:
        try:
            kept.append(residence(preset, dtype, Placement(memory=budget * 2**30), (ulysses, ring)).blocks)
        except InputError:
            kept.append(None)
    return {"ulysses": ulysses, "ring": ring, "needed": plain.needed, "total": plain.total, "kept": kept}


def table(counts: dict[str, Any]) -> str:
    """The record as Markdown."""
    width, height = counts["size"]
    lines = [
        "# Work and bytes of each rank",
        "",
        f"One step of the 14B transformer's first {counts['blocks']} blocks at {width}x{height} ({counts['tokens']:,} "
        f"tokens, {counts['whole_flops'] / 1e12:.1f} TFLOP in all), bfloat16: the busiest rank, counted by "
        "`python -m benchmarks.parallel_work --write`.",
        "",
        "Work: a rank's operations times the ranks, over the whole model's; 1 is the least. All-to-all: what it sends "
        "within its Ulysses group (queries, keys, values, result). Ring: keys and values passed on. Least: of both, "
        "for an N-th of the tokens, without the padding that makes shares equal. Gathering: what a rank would send if "
        "all gathered the tokens, projected their own heads' queries, keys and values, and exchanged only the results; "
        "less at two ranks and than a ring alone; not done. As FP8: what is sent with `--send-fp8`. Join: the output, "
        f"once a step. Step: all of it, for {PRESETS['14b'].transformer.num_layers} blocks.",
        "",
        "| ranks | ulysses x ring | work | all-to-all, MB a block | ring, MB a block | least | sent / least "
        "| gathering, MB a block | as FP8, MB a block | join, MB a step | a step, GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in counts["meshes"]:
        sent, least = row["sent_bytes_per_block"], row["least_bytes_per_block"]
        names = ("all_to_all", "ring", "least", "gathered", "fp8")
        to_all, ring, lowest, gathered, fp8 = (f"{row[f'{name}_bytes_per_block'] / 1e6:.2f}" for name in names)
        ratio = f"{sent / least:.4f}" if least else ""
        join = row["join_bytes_per_step"]
        total = (PRESETS["14b"].transformer.num_layers * sent + join) / 1e9
        lines.append(
            f"| {row['ranks']} | {row['ulysses']} x {row['ring']} | {row['work']:.4f} | {to_all} | {ring} | {lowest} "
            f"| {ratio} | {gathered} | {fp8} | {join / 1e6:.1f} | {total:.2f} |"
        )
    parts = (FP8, overlap_table(), sharded_table(counts["sharded"]), memory_table(counts["memory"]))
    return "\n".join([*lines, *(line for part in parts for line in part)]) + "\n"


def overlap_table() -> list[str]:
    """What `benchmarks.overlap` has measured, as Markdown."""
    figures = json.loads((DOCS / "figures" / "overlap.json").read_text())
    lines = [*OVERLAP]
    for link, measured in figures.items():
        lines += ["", f"### {link}", "", *overlap.table(measured["ranks"]).splitlines()]
    return lines


def memory_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What ranks need with whole weights, as Markdown."""
    lines = [*MEMORY]
    for row in rows:
        needed = row["needed"]
        parts = ("context", "transformer step", "VAE decode", "VAE encode", "margin")
        weights = needed["transformer weights"] + needed["VAE weights"]
        sizes = [f"{size / 1e9:.2f}" for size in (weights, *(needed[part] for part in parts), row["total"])]
        kept = ["too little" if blocks is None else str(blocks) for blocks in row["kept"]]
        mesh = f"{row['ulysses']} x {row['ring']}"
        lines.append(f"| {' | '.join([mesh, *sizes, *kept])} |")
    return lines


def sharded_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What ranks hold of sharded weights, as Markdown."""
    lines = [*SHARDED]
    for row in rows:
        share, total = row["whole"] / row["ranks"], row["at_rest"] + row["gathered"]
        sizes = [f"{size / 1e6:,.1f} MB" for size in (row["at_rest"], row["gathered"], total)]
        lines.append(
            f"| {row['preset']} | {row['ranks']} | {sizes[0]} | {row['at_rest'] / share:.4f} | {sizes[1]} "
            f"| {row['gathered'] / row['block']:.2f} | {sizes[2]} | {(1.1 * share + row['block']) / 1e6:,.1f} MB |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=(1, 2, 3, 4, 5, 8), help="numbers of ranks")
    parser.add_argument("--size", type=size, default=(768, 448), help="WIDTHxHEIGHT in pixels")
    parser.add_argument("--write", action="store_true", help="keep record and table under docs/")
    options = parser.parse_args()
    counts = record(options.ranks, *options.size)
    print(table(counts))
    if options.write:
        (DOCS / "figures" / "parallel_work.json").write_text(json.dumps(counts, indent=1) + "\n")
        (DOCS / "parallel_work.md").write_text(table(counts))


if __name__ == "__main__":
    main()
