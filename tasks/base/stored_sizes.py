"""What a configuration says of the images that its network sees, without opening their data set."""

from tasks.base.build import Config, plain, task_kind
from tasks.data.detection import IMAGE_SIZE
from tasks.values.sizes import Size, parse_sides, parse_size


def stored_image_size(config: Config) -> Size | None:
    """(H, W) px of a validation image; None where that is up to the images, as in segmentation.

    Of a classifier that is evaluated at several sizes it is the first.
    """
    data, kind = plain(config).get("data") or {}, task_kind(config)
    data = data[kind] if isinstance(data.get(kind), dict) else data  # data=demo holds the options of every task
    size = data.get("image_size")
    if kind == "detection":
        return parse_size(IMAGE_SIZE if size is None else size, "data.image_size")
    if kind == "classification":
        side = parse_sides(224 if size is None else size, "data.image_size")[0]
        return side, side
    return None
