"""A process that receives a stream, for tests that end or stop it: prints a line when it is
through, sleeps before a bucket if it is told to."""

import json
import sys
import time

import torch

from virgo_ray.weights.offer import Offer
from virgo_ray.weights.streams import receiver_of

if __name__ == "__main__":
    offer, num_before_sleep = Offer(**json.loads(sys.argv[1])), int(sys.argv[2])
    torch.set_num_threads(1)
    print("ready", flush=True)
    receiver = receiver_of(offer, 0)
    for number, _ in enumerate(receiver.receive("nowhere"), 1):
        if number == num_before_sleep:
            print("sleeping", flush=True)
            time.sleep(600)
    print(json.dumps(receiver.read), flush=True)
    receiver.close()
