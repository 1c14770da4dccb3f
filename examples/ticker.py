"""Live prices: each page gets the symbols that it shows, and a slow one only the newest price of each.

Run:   python ticker.py [PORT]
Try:   open http://localhost:8080, and switch symbols off: fewer messages come, because the server leaves the others
       out. Stop the server and start it again: the table goes on with the prices of the server.

The topic keeps no history, because an old price is worth nothing. A page asks for all prices when it has subscribed,
also after a reconnect. Random numbers stand in for a market. Run this program in one process, which makes them.
"""

import random
import sys
from pathlib import Path
from typing import Any

from pywsapp import App, Connection, RateLimit, Response, TopicComponent, TopicRules

PAGE = Path(__file__).with_suffix(".html").read_text("utf-8")
SYMBOLS = ["ARCH", "BOLT", "CRUX", "DUNE", "ECHO", "FERN", "GALE", "HALO", "IRIS", "JADE", "KITE", "LYNX"]
START = {symbol: random.randint(2000, 50000) for symbol in SYMBOLS}  # in cents
prices: dict[str, dict[str, Any]] = {
    symbol: {"symbol": symbol, "price": price, "start": price} for symbol, price in START.items()
}


class Prices(TopicComponent):
    filter_fields = ("symbol",)  # a page can ask for messages with some symbols only

    def on_call(self, conn: Connection, method: str, params: Any) -> Any:
        return list(prices.values()) if method == "prices" else super().on_call(conn, method, params)


app = App(
    "localhost",
    8080,
    authorize=TopicRules(subscribe=["prices"]),
)
app.route("/live", RateLimit(Prices(), messages_per_second=20))
app.route_client()
app.http("/", lambda request: Response.html(PAGE))


@app.every(0.2)
def trade() -> None:
    for symbol in random.sample(SYMBOLS, 3):
        price = prices[symbol]["price"]
        step = max(1, price // 250)
        prices[symbol]["price"] = max(100, price + random.randint(-step, step))
        app.topic("prices").broadcast(prices[symbol])


if __name__ == "__main__":
    app.rebind(port=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    app.run()
