"""What every peer does alike: reads the work, waits for arrivals, stamps tokens, prints one JSON object."""
import json, time


def resident_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024


class Record:
    def __init__(self, path):
        self.work = json.load(open(path))
        self.queue = list(range(len(self.work)))
        self.answers = [[] for _ in self.work]
        self.times = [[] for _ in self.work]
        self.began = time.time()

    def start(self):
        """The model is loaded and warm; from here on it counts."""
        self.load_s = time.time() - self.began
        self.zero, self.cpu = time.time(), time.process_time()

    def now(self):
        return time.time() - self.zero

    def take(self, most):
        """Up to `most` requests that have arrived, oldest first."""
        here = [i for i in self.queue[:most] if self.work[i]["at"] <= self.now()]
        self.queue = self.queue[len(here):]
        return here

    def wait(self):
        """Sleeps until a request has arrived."""
        time.sleep(max(0.0, self.work[self.queue[0]]["at"] - self.now()))

    def token(self, i, id):
        """The next token of request `i`; whatever comes after its last is none."""
        if len(self.answers[i]) < self.work[i]["max_new"]:
            self.answers[i].append(int(id))
            self.times[i].append(self.now() - self.work[i]["at"])

    def print(self):
        wall, cpu = self.now(), time.process_time() - self.cpu
        assert all(len(answer) == request["max_new"] for answer, request in zip(self.answers, self.work)), "unfinished"
        print(json.dumps({"load_s": self.load_s, "wall_s": wall, "cpu_s": cpu, "resident_bytes": resident_bytes(),
                          "answers": self.answers, "times": self.times}))
