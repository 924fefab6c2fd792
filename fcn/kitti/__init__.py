"""KITTI Road: metrics at native resolution and in bird's-eye view, and submissions for its server."""
