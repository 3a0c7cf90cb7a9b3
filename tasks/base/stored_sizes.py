"""Image sizes by the configuration alone, without opening the data set."""

from tasks.base.build import Config, data_settings, plain, task_class
from tasks.values.sizes import Size


def stored_image_size(config: Config) -> Size | None:
    """Get the (H, W) px of a validation image; None where that is up to the images, as in segmentation."""
    task = task_class(config)
    return task.image_size_of(data_settings(plain(config), task.kind))
