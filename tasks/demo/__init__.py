"""The demo data: street scenes, objects and portraits that `scenes.draw_demo_data` paints, the same everywhere."""
