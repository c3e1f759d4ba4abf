"""From any photo to a :class:`~zero1toa.types.Portrait`: reading, matting, landmarks, head fitting."""
