"""KITTI Road's own metrics: from above, at the frames' native resolution, and what its server takes."""
