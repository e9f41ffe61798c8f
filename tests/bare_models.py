"""Models of plain torch, which no table describes."""

from torch import nn


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())


class ResidualMLP(nn.Module):
    def __init__(self, depth=3):
        super().__init__()
        self.begin, self.end = nn.Linear(4, 8), nn.Linear(8, 2)
        self.trunk = nn.Module()
        self.trunk.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.unlike = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 4)])

    def forward(self, x):
        x = self.begin(x)
        for block in self.trunk.blocks:
            x = block(x)
        return self.end(x)


class ConvBlock(nn.Module):
    def __init__(self):
        super().__init__()
        # A list inside every block is not a stack of its own.
        self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(6))

    def forward(self, x):
        return x + self.convolutions[1](self.convolutions[0](x).relu())


class ResidualConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 4, 3), nn.ModuleList(ConvBlock() for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return [head(x.mean((2, 3))) for head in self.heads]
