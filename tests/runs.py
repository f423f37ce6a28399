"""Overrides that make a run take a second or two on the smallest synthetic people, and a look into one."""

from aelm.train import task as train

SCORES = ("mAP", "mAP_trapezoid", "mINP", "rank1", "rank5", "rank10")
SMALL = [
    "dataset.benchmarks.synthetic.size=tiny",
    "dataset.val_fraction=0.4",
    "dataset.workers=0",
    "transform.height=64",
    "transform.width=32",
    "model.backbone.name=resnet10t",
    "model.backbone.pretrained=false",
    "model.aelm.embed_dim=16",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
]
P_X_K = ["sampler.identities=2", "sampler.images=2", "sampler.steps_per_epoch=3"]


def watched_by(callback):
    """Hands ``callback`` to every trainer that this process builds from now on, and gives it back."""
    plain = train.build_trainer

    def build(*arguments):
        trainer = plain(*arguments)
        trainer.callbacks.append(callback)
        return trainer

    train.build_trainer = build
    return callback
