"""The class-conditional pixel diffusion transformer (JiT), which PixelGen trains on ImageNet."""

import torch
from torch import Tensor, nn

from pixelgen.checks import COUNT, FROM_ZERO, POSITIVE, Range, checked
from pixelgen.models.layers import Attention, Block, FinalLayer, SwiGLU, TimestepEmbedder, named, patches_to_image
from pixelgen.models.rotary import rotary_table
from pixelgen.models.transformer import PatchTransformer


class JiT(PatchTransformer):
    """Class-conditional pixel diffusion transformer with x-prediction (JiT, arXiv 2511.13720; PixelGen's network).

    Conditions are class indices (B,) in [0, num_classes]; index `num_classes` is the null class. With `num_classes`
    None the network is unconditional and takes no condition.

    Args:
        input_size: side of the training images in pixels; a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        in_channels: channels of an image.
        hidden_size: width D of a token.
        depth: number of blocks.
        num_heads: attention heads; D / heads must be a multiple of 4.
        mlp_ratio: width of the feed-forward part relative to D, before the 2/3 of SwiGLU.
        num_classes: number of classes, or null for an unconditional network.
        bottleneck_dim: width of the patch embedding's bottleneck, or null for a single projection.
        in_context_len: number of class tokens put before the patches; 0 for none.
        in_context_start: block before which the class tokens are put there.
        attn_drop: dropout of attention weights in the middle half of the blocks.
        proj_drop: dropout of block outputs in the middle half of the blocks.
    """

    @checked(
        **dict.fromkeys(("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads"), COUNT),
        **dict.fromkeys(("num_classes", "bottleneck_dim"), COUNT),
        **dict.fromkeys(("in_context_len", "in_context_start"), FROM_ZERO),
        **dict.fromkeys(("attn_drop", "proj_drop"), Range(0, 1, below=True)),
        mlp_ratio=POSITIVE,
    )
    def __init__(
        self,
        input_size: int = 256,
        patch_size: int = 16,
        in_channels: int = 3,
        hidden_size: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int | None = 1000,
        bottleneck_dim: int | None = 128,
        in_context_len: int = 32,
        in_context_start: int = 8,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(input_size, patch_size, in_channels, num_classes, hidden_size=hidden_size, num_heads=num_heads)
        if num_classes is not None and in_context_len and in_context_start >= depth:
            raise ValueError(
                f"in_context_start is {in_context_start}, but there are blocks 0 to {depth - 1}: choose one of them, "
                "or set in_context_len to 0 for no class tokens"
            )
        self.in_context_len = in_context_len if num_classes is not None else 0
        self.in_context_start = in_context_start
        if bottleneck_dim is None:
            self.x_embedder = named(proj1=nn.Conv2d(in_channels, hidden_size, patch_size, patch_size))
        else:
            narrow = nn.Conv2d(in_channels, bottleneck_dim, patch_size, patch_size, bias=False)
            self.x_embedder = named(proj1=narrow, proj2=nn.Conv2d(bottleneck_dim, hidden_size, 1))
        self.t_embedder = TimestepEmbedder(hidden_size)
        if num_classes is not None:
            self.y_embedder = named(embedding_table=nn.Embedding(num_classes + 1, hidden_size))
        if self.in_context_len:
            self.in_context_posemb = nn.Parameter(torch.empty(1, in_context_len, hidden_size))
        middle = range(depth // 4, depth // 4 * 3)
        self.blocks = nn.ModuleList(
            _block(hidden_size, num_heads, mlp_ratio, *(attn_drop, proj_drop) if i in middle else (0.0, 0.0))
            for i in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * in_channels)
        self.initialise()

    def initialise(self) -> None:
        """Published initialisation: Xavier, N(0, 0.02²) for labels and time, zero for adaLN and the last layer."""
        small = [] if self.num_classes is None else list(self.y_embedder.parameters())
        if self.in_context_len:
            small.append(self.in_context_posemb)
        self.draw_weights(small)

    def forward_with_features(
        self, x_t: Tensor, t: Tensor, condition: Tensor | None = None, layer: int | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Prediction like `x_t`, and the patch tokens (B, N, D) entering block `layer`."""
        rows, columns = self.grid(x_t)
        x = self.x_embedder(x_t).flatten(2).transpose(1, 2) + self.positions(rows, columns)
        c = self.t_embedder(t)
        y: Tensor | None = None
        if self.num_classes is not None:
            if condition is None:
                raise ValueError(
                    f"this network has {self.num_classes} classes: give a label for each image "
                    f"({self.num_classes} is the null class)"
                )
            y = self.y_embedder(condition)
            c = c + y
        features: Tensor | None = None
        table, context = rotary_table(self.head_dim, rows, columns, 0, x.device), 0
        for i, block in enumerate(self.blocks):
            if i == layer:
                features = x[:, context:]
            if y is not None and i == self.in_context_start and self.in_context_len:
                context = self.in_context_len
                x = torch.cat([(y.unsqueeze(1) + self.in_context_posemb).to(x.dtype), x], dim=1)
                table = rotary_table(self.head_dim, rows, columns, context, x.device)
            x = self.run_block(block, x, c, table)
        out = self.final_layer(x[:, context:], c)
        return patches_to_image(out, rows, columns, self.patch_size), features


def _block(width: int, num_heads: int, mlp_ratio: float, attn_drop: float, proj_drop: float) -> Block:
    attn = Attention(width, num_heads, attn_drop=attn_drop, proj_drop=proj_drop)
    mlp = SwiGLU(width, int(int(width * mlp_ratio) * 2 / 3), proj_drop)
    return Block(width, attn, mlp, nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)))
