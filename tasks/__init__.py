"""What is done with networks: a room a task, and rooms for data, training, export and measurement.

A room uses only what stands below it; `make lint` holds that. From the top:

    evaluate, compare, describe, search             what a tool calls; search looks for fast networks
    predict, doctor, benchmark
    inspection (looks at data), deploy (exports)
    detection, segmentation, classification, training, import_weights
    base                                            what every task shares: contract, network, building, checkpoints
    data, quantization
    transforms                                      of images with their masks and boxes
    files, pictures, demo                           know nothing of networks
    values                                          sizes, formats of pixels, numbers in words, cores and memory
"""
