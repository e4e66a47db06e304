"""From datasets on disk to batches: text, images, augmentation, grain pipelines, builders."""
