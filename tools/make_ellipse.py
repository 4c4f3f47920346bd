"""Write book/_extra/live/ellipse.json: six test images, and where the live figure looks at them.

Run once, and whenever mnist/mean-field-0 is trained anew: ``.venv/bin/python tools/make_ellipse.py``.
The view of an image holds its true posterior and its encoder's answer, as in chapter 6.
"""

import base64
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from vae_tutorial import data, load_run

RUN = "mnist/mean-field-0"
IMAGES = (50, 22, 78, 92, 46, 33)  # from an encoder that is nearly right to one that is far off


@torch.no_grad()
def main() -> None:
    test = data.load("mnist").test
    x = data.to_float(test.images[list(IMAGES)])
    vae = load_run(RUN).model.cpu()
    axis = torch.linspace(-5.5, 5.5, 441)
    grid = torch.cartesian_prod(axis, axis)
    joint = []
    for z in grid.split(10_000):
        logits = vae.decoder.network(z).flatten(1)
        log_likelihood = x.flatten(1) @ logits.T - F.softplus(logits).sum(1)
        joint.append(log_likelihood + vae.prior().log_prob(z))
    q = vae.encoder(x)
    views = []
    for i, values in enumerate(torch.cat(joint, dim=1)):
        ends = q.mean[i] + 2.5 * q.stddev[i] * torch.tensor([[1.0], [-1.0]])
        near = torch.cat([grid[values > values.max() - 5], ends])
        low, high = near.amin(0), near.amax(0)
        pixels = bytes(test.images[IMAGES[i]].flatten().tolist())
        views.append(
            {
                "image": IMAGES[i],
                "label": int(test.labels[IMAGES[i]]),
                "centre": [round(v, 3) for v in ((low + high) / 2).tolist()],
                "half": round(0.72 * float((high - low).max()), 3),
                "pixels": base64.b64encode(pixels).decode(),
            }
        )
    lines = ",\n".join("    " + json.dumps(view) for view in views)
    path = Path(__file__).resolve().parent.parent / "book" / "_extra" / "live" / "ellipse.json"
    path.write_text('{\n  "images": [\n' + lines + "\n  ]\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
