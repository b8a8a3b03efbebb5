"""Writes tests/golden/prompt/positions.json: transformers' get_rope_index, patch positions, windows and attention bounds."""

import json
import pathlib
import types

import torch
import transformers
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

ROOT = pathlib.Path(__file__).parents[2] / "tests/golden/prompt"
TEXT, PAD = 5, 9
# Each sequence: numbers are runs of text, pairs are image grids (h, w) in patches.
SEQUENCES = {
    "text": [7],
    "one image": [3, (4, 6), 5],
    "image first": [(8, 2), 2],
    "image last": [4, (2, 8)],
    "two images of different sizes": [4, (4, 6), 2, (10, 4), 6],
    "image inside an assistant turn": [6, (6, 6), 9, (4, 14), 4],
    # Each turn: text, images of several sizes with the tokens that mark their bounds, text.
    "six turns of several images": [
        9, (8, 6), 2, (4, 4), 7,
        5, (2, 2), 2, (2, 2), 2, (6, 4), 3,
        11, (16, 8), 4,
        3, (4, 18), 2, (18, 4), 2, (8, 8), 2, (2, 10), 6,
        2, (6, 6), 2, (6, 8), 5,
        8, (10, 10), 2, (4, 6), 2, (12, 2), 4,
    ],
    "four images": [1, (2, 2), 1, (12, 2), 1, (2, 12), 3, (8, 8), 1],
}
GRIDS = [(2, 2), (4, 6), (8, 8), (16, 16), (16, 8), (18, 10), (10, 18), (32, 24), (2, 40), (26, 34)]


def rope_index(sequence):
    ids, kinds, grids = [], [], []
    for piece in sequence:
        length = piece if isinstance(piece, int) else piece[0] * piece[1] // 4
        ids += [TEXT if isinstance(piece, int) else PAD] * length
        kinds += [0 if isinstance(piece, int) else 1] * length
        grids += [] if isinstance(piece, int) else [[1, *piece]]
    vision = types.SimpleNamespace(spatial_merge_size=2, tokens_per_second=2)
    model = types.SimpleNamespace(config=types.SimpleNamespace(vision_config=vision))
    model.get_vision_position_ids = types.MethodType(Qwen2_5_VLModel.get_vision_position_ids, model)
    positions, delta = Qwen2_5_VLModel.get_rope_index(
        model, torch.tensor([ids]), torch.tensor([kinds]), torch.tensor(grids) if grids else None, None
    )
    return {
        "ids": ids, "grids": [grid[1:] for grid in grids], "positions": positions[:, 0].T.tolist(),
        "next": int(delta[0]) + len(ids),
    }


def vision(grids):
    thw = torch.tensor([[1, *grid] for grid in grids])
    order, bounds = get_vision_window_index(thw, 2, 112, 14)
    return {
        "grids": grids,
        "patch_positions": get_vision_position_ids(thw, 2).reshape(-1, 2).tolist(),
        "window_order": order.tolist(),
        "window_bounds": torch.unique_consecutive(torch.as_tensor(bounds)).tolist(),
        "image_bounds": get_vision_cu_seqlens(thw).tolist(),
    }


def main():
    golden = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "pad": PAD,
        "rope_index": {name: rope_index(sequence) for name, sequence in SEQUENCES.items()},
        "vision": [vision([grid]) for grid in GRIDS] + [vision([(4, 6), (10, 18)])],
    }
    (ROOT / "positions.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


main()
