"""A loader in Lightning, which saves loaders that have a `state_dict`: a fit that was cut goes on with the next batch."""

import warnings

import pytest
import torch

import deeptrain as dt

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning")

pytestmark = pytest.mark.filterwarnings("ignore")


class Seen(lightning.LightningModule):
    """Notes the rows of each batch."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.rows = []

    def training_step(self, batch, index):
        self.rows.append((batch.epoch, batch.rows.tolist()))
        return self.layer(batch.inputs).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(place, steps, checkpoint=None):
    loader = dt.BatchLoader(dt.Arrays(torch.arange(80.0).reshape(40, 2)), batch_size=4, shuffle=True, seed=1)
    module = Seen()
    trainer = lightning.Trainer(
        max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=place,
    )  # fmt: skip
    trainer.fit(module, loader, ckpt_path=checkpoint)
    trainer.save_checkpoint(place / f"{steps}.ckpt")
    return module.rows


@pytest.mark.parametrize("cut", [3, 9, 13])
def test_the_loader_goes_on_where_it_was(tmp_path, cut):
    whole = fit(tmp_path, 16)
    first = fit(tmp_path, cut)
    rest = fit(tmp_path, 16, tmp_path / f"{cut}.ckpt")
    assert [rows for _, rows in first + rest] == [rows for _, rows in whole]
