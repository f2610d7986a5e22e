"""Compare arrays and tables with truth: detections, instances, tracks, and the health of features."""
