"""Train a network of structured experts with Lightning. Run: python examples/clients/lightning_training.py"""

import torch
from lightning import LightningModule, Trainer

from einsearch_cli import AuxiliaryLoss, optimizer_groups, swap_linear


class Regression(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
        swap_linear(self.network, "btt-moe:experts=4,top=2")

    def training_step(self, x: torch.Tensor) -> torch.Tensor:
        with AuxiliaryLoss(self) as auxiliary:  # balances the experts
            self.loss = (self.network(x) - x.cumsum(1)).square().mean()
        return self.loss + auxiliary.loss()

    def configure_optimizers(self) -> dict[str, object]:
        groups = optimizer_groups(self, lr=1e-3, weight_decay=0.1)
        optimizer = torch.optim.AdamW(groups)  # one number as max_lr would give all groups the same rate
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, [group["lr"] for group in groups], total_steps=40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


data = torch.utils.data.DataLoader(torch.randn(640, 64) / 8, batch_size=32)
model = Regression()
Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False).fit(model, data)
print("loss", model.loss.item())
