"""A real MLflow store, and a client of it whose k-th request goes wrong."""

import shutil

from sweeps import empty_database


class Killed(BaseException):
    """The end of the driver."""


class Spoiled:
    """A client whose k-th request goes wrong."""

    def __init__(self, client, number, *, heard, deadly):
        self.client, self.number, self.heard, self.deadly = client, number, heard, deadly
        self.requests = 0

    def __getattr__(self, name):
        attribute = getattr(self.client, name)
        if not callable(attribute):
            return attribute

        def request(*arguments, **named):
            self.requests += 1
            if self.requests < self.number or (self.requests > self.number and not self.deadly):
                return attribute(*arguments, **named)
            if self.requests == self.number and self.heard:
                attribute(*arguments, **named)
            raise Killed if self.deadly else ConnectionError("gone")

        return request


def database(folder):
    folder.mkdir(exist_ok=True)
    shutil.copy(empty_database(), folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"
