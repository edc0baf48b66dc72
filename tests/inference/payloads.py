"""Documents after the shapes of real ones, rebuilt by hand: what carriers, standards, shops and databases send.

The structures follow public documentation; all values are invented. Each has the path of its records and the rows of
the tables that it becomes.
"""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Payload:
    """A source as text, and what it becomes: the path of its records, and the rows by the end of a table's name."""

    text: str
    records: str
    rows: dict[str, int]

    @property
    def documents(self) -> list[Any]:
        """The documents of the source."""
        decoder, found, at = json.JSONDecoder(), [], 0
        while at < len(self.text.rstrip()):
            document, at = decoder.raw_decode(self.text, at)
            found.append(document)
            at += len(self.text[at:]) - len(self.text[at:].lstrip())
        return found


def _of(document: Any, records: str, rows: dict[str, int]) -> Payload:
    return Payload(text=json.dumps(document, ensure_ascii=False), records=records, rows=rows)


def _lines(records: list[Any], path: str, rows: dict[str, int]) -> Payload:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return Payload(text=text, records=path, rows=rows)


def _address(city: str) -> dict[str, Any]:
    return {"name": f"Firma {city}", "street": "Hafenstraße 1", "zip": "01067", "city": city, "country": "DE"}


def _scan(number: int) -> dict[str, Any]:
    return {"code": "IN", "at": f"2026-01-0{number}T08:00:00Z", "location": {"city": "Bonn", "lat": 50.7, "lon": 7.1}}


_NUMBERS = range(1, 6)

PAYLOADS = {
    "a tracking answer of one shipment": _of(
        {
            "meta": {"code": 200},
            "data": {
                "tracking": {
                    "id": "t-1",
                    "tracking_number": "0034",
                    "slug": "dhl",
                    "checkpoints": [_scan(number) for number in _NUMBERS],
                }
            },
        },
        "item",
        {"": 1, "tracking_checkpoints": 5},
    ),
    "a tracking answer with a list": _of(
        {
            "shipments": [
                {"id": f"S{n}", "service": "express", "origin": _address("Bonn"), "events": [_scan(1), _scan(2)]}
                for n in _NUMBERS
            ],
            "possibleAdditionalShipmentsUrl": ["https://example.org/next"],
        },
        "shipments.item",
        {"": 5, "events": 10},
    ),
    "a webhook of one parcel": _of(
        {"event": "delivered", "parcel_id": "P1", "recipient": _address("Köln"), "history": [_scan(1), _scan(2)]},
        "item",
        {"": 1, "history": 2},
    ),
    "an order with two addresses": _of(
        {"from": _address("Hamburg"), "to": _address("Berlin"), "billing": _address("München")}, "item", {"": 1}
    ),
    "EPCIS events": _of(
        {
            "@context": ["https://ref.gs1.org/standards/epcis/2.0.0/epcis-context.jsonld"],
            "type": "EPCISDocument",
            "schemaVersion": "2.0",
            "creationDate": "2026-01-01T10:00:00Z",
            "epcisBody": {
                "eventList": [
                    {
                        "type": "AggregationEvent",
                        "eventID": f"ni:{n}",
                        "eventTime": f"2026-01-0{n}T10:00:00.000+01:00",
                        "parentID": "urn:epc:1",
                        "childEPCs": ["urn:epc:2", "urn:epc:3"],
                        "bizLocation": {"id": "urn:epc:id:sgln:1"},
                    }
                    for n in _NUMBERS
                ]
            },
        },
        "epcisBody.eventList.item",
        {"": 5},
    ),
    "positions of vehicles as GTFS Realtime": _of(
        {
            "header": {"gtfsRealtimeVersion": "2.0", "incrementality": "FULL_DATASET", "timestamp": "1767225600"},
            "entity": [
                {
                    "id": f"v{n}",
                    "vehicle": {"trip": {"tripId": f"T{n}"}, "position": {"latitude": 50.1, "longitude": 8.6}},
                }
                for n in _NUMBERS
            ],
        },
        "entity.item",
        {"": 5},
    ),
    "points as GeoJSON": _of(
        {
            "type": "FeatureCollection",
            "name": "depots",
            "features": [
                {
                    "type": "Feature",
                    "geometry": {"type": "Point", "coordinates": [9.9, 53.5 + n]},
                    "properties": {"code": f"D{n}"},
                }
                for n in _NUMBERS
            ],
        },
        "features.item",
        {"": 5},
    ),
    "hits of a search": _of(
        {
            "took": 5,
            "timed_out": False,
            "_shards": {"total": 1, "successful": 1, "failed": 0},
            "hits": {
                "total": {"value": 5, "relation": "eq"},
                "max_score": 1.0,
                "hits": [
                    {"_index": "orders", "_id": f"{n}", "_score": 1.0, "_source": {"order": n, "city": "Bonn"}}
                    for n in _NUMBERS
                ],
            },
        },
        "hits.hits.item",
        {"": 5},
    ),
    "an envelope with a header": _of(
        {
            "Envelope": {
                "Header": {"MsgId": "M-1", "IsTest": False},
                "Body": {
                    "Shipments": {
                        "Shipment": [{"No": f"S{n}", "Parties": {"Party": [{"Role": "CN"}]}} for n in _NUMBERS]
                    }
                },
            }
        },
        "Envelope.Body.Shipments.Shipment.item",
        {"": 5, "parties_party": 5},
    ),
    "an answer of OData 2": _of(
        {
            "d": {
                "results": [
                    {
                        "OrderID": n,
                        "Date": "/Date(1351534600660)/",
                        "Lines": {"results": [{"LineNo": 1, "Qty": "2.000"}, {"LineNo": 2, "Qty": "2.000"}]},
                    }
                    for n in _NUMBERS
                ]
            }
        },
        "d.results.item",
        {"": 5, "lines": 10},
    ),
    "an answer of OData 4": _of(
        {
            "@odata.context": "$metadata#Orders",
            "@odata.count": 5,
            "value": [{"@odata.etag": 'W/"1"', "No": f"{n:03}", "Amount": n + 0.5} for n in _NUMBERS],
        },
        "value.item",
        {"": 5},
    ),
    "an answer of JSON:API": _of(
        {
            "data": [
                {
                    "type": "shipments",
                    "id": f"{n}",
                    "attributes": {"kg": n + 0.5, "status": "in"},
                    "relationships": {"carrier": {"data": {"type": "carriers", "id": "9"}}},
                }
                for n in _NUMBERS
            ],
            "included": [{"type": "carriers", "id": "9", "attributes": {"name": "X"}}],
            "meta": {"total": 5},
        },
        "data.item",
        {"": 5},
    ),
    "an answer of HAL": _of(
        {
            "_links": {"self": {"href": "/orders"}, "next": {"href": "/orders?page=2"}},
            "total": 5,
            "_embedded": {"orders": [{"_links": {"self": {"href": f"/orders/{n}"}}, "total": n} for n in _NUMBERS]},
        },
        "_embedded.orders.item",
        {"": 5},
    ),
    "an answer of SOAP": _of(
        {
            "soap:Envelope": {
                "@xmlns:soap": "http://schemas.xmlsoap.org/soap/envelope/",
                "soap:Body": {
                    "GetShipmentsResponse": {
                        "return": [{"@id": f"S{n}", "Weight": {"@unit": "kg", "#text": "1.5"}} for n in _NUMBERS]
                    }
                },
            }
        },
        "soap:Envelope.soap:Body.GetShipmentsResponse.return.item",
        {"": 5},
    ),
    "edges and nodes of GraphQL": _of(
        {
            "data": {
                "orders": {
                    "edges": [
                        {
                            "cursor": f"c{n}",
                            "node": {"id": f"gid://Order/{n}", "lineItems": {"edges": [{"node": {"sku": "a"}}]}},
                        }
                        for n in _NUMBERS
                    ],
                    "pageInfo": {"hasNextPage": False},
                }
            },
            "extensions": {"cost": {"actual": 3}},
        },
        "data.orders.edges.item",
        {"": 5, "line_items": 5},
    ),
    "orders of a shop": _of(
        {
            "orders": [
                {
                    "id": n,
                    "order_number": 1000 + n,
                    "total_price": "409.94",
                    "created_at": "2026-01-10T11:00:00-05:00",
                    "shipping_address": _address("Bonn"),
                    "line_items": [{"id": 10 * n, "sku": "A", "price": "199.00", "tax_lines": [{"rate": 0.06}]}],
                    "fulfillments": [],
                }
                for n in _NUMBERS
            ]
        },
        "orders.item",
        {"": 5, "line_items": 5, "line_items_tax_lines": 5},
    ),
    "orders of another shop": _of(
        [
            {
                "id": n,
                "number": f"{n}",
                "date_created": "2026-03-22T16:28:02",
                "total": "29.35",
                "billing": {"first_name": "A", "postcode": "01067"},
                "meta_data": [],
                "line_items": [{"id": 315, "quantity": 2, "subtotal": "6.00", "taxes": [{"id": 75, "total": "0.45"}]}],
                "refunds": [],
            }
            for n in _NUMBERS
        ],
        "item",
        {"": 5, "line_items": 5, "line_items_taxes": 5},
    ),
    "an order as a webhook": _of(
        {"id": 820, "email": "a@b", "line_items": [{"id": n, "sku": "a"} for n in range(8)], "to": _address("Bonn")},
        "item",
        {"": 1, "line_items": 8},
    ),
    "carriers larger than the shipments": _of(
        {"carriers": [{"id": n, "name": "c"} for n in range(30)], "shipments": [{"id": 1, "carrier": 3, "kg": 2.5}]},
        "shipments.item",
        {"": 1},
    ),
    "stock of articles under sites": _of(
        {site: {f"SKU{n}": n for n in _NUMBERS} for site in ("HAM", "BER", "MUC")}, "*", {"": 3}
    ),
    "one order alone": _of(
        {"order": {"id": 1, "currency": "EUR", "customer": {"name": "A"}, "lines": [{"sku": "a"}, {"sku": "b"}]}},
        "item",
        {"": 1, "lines": 2},
    ),
    "changes of a database by Debezium": _lines(
        [
            {
                "payload": {
                    "before": {"id": n, "status": "IN"} if n > 2 else None,
                    "after": {"id": n, "status": "OUT"} if n < 5 else None,
                    "source": {"connector": "mysql", "ts_ms": 1_700_000_000_000 + n, "table": "shipments"},
                    "op": "c",
                    "ts_ms": 1_700_000_000_500 + n,
                }
            }
            for n in _NUMBERS
        ],
        "item",
        {"": 5},
    ),
    "an export of DynamoDB": _lines(
        [
            {
                "Item": {
                    "Id": {"S": f"P{n}"},
                    "Kg": {"N": "1.25"},
                    "Tags": {"SS": ["a", "b"]},
                    "Stops": {"L": [{"M": {"code": {"S": "HAM"}}}]},
                    "Note": {"NULL": True} if n > 1 else {"S": "x"},
                }
            }
            for n in _NUMBERS
        ],
        "item",
        {"": 5, "stops": 5},
    ),
    "an export of MongoDB": _lines(
        [
            {
                "_id": {"$oid": f"65aa00000000000000bb000{n}"},
                "price": {"$numberDecimal": "12.50"} if n > 1 else {"$numberInt": "7"},
                "sold": {"$date": {"$numberLong": "1427144809506"}},
                "lines": [{"qty": {"$numberInt": "2"}}],
            }
            for n in _NUMBERS
        ],
        "item",
        {"": 5, "lines": 5},
    ),
    "records of Odoo": _of(
        {
            "jsonrpc": "2.0",
            "id": None,
            "result": {
                "length": 5,
                "records": [
                    {
                        "id": n,
                        "partner_id": [7, "Firma"] if n % 2 else False,
                        "date_done": "2026-01-01 09:00:00" if n % 2 else False,
                        "weight": n / 2,
                        "move_ids": [1, 2],
                    }
                    for n in _NUMBERS
                ],
            },
        },
        "result.records.item",
        {"": 5},
    ),
    "XML as an object or an array": _of(
        {
            "Shipments": {
                "@version": "1",
                "Shipment": [
                    {"@id": f"S{n}", "Stops": {"Stop": [{"@seq": "1"}, {"@seq": "2"}] if n % 2 else {"@seq": "1"}}}
                    for n in _NUMBERS
                ],
            }
        },
        "Shipments.Shipment.item",
        {"": 5, "stops_stop": 8},
    ),
    "messages of a queue": _of(
        {"Messages": [{"MessageId": f"m{n}", "Body": json.dumps({"order": n})} for n in _NUMBERS]},
        "Messages.item",
        {"": 5},
    ),
    "events as CloudEvents": _lines(
        [
            {
                "specversion": "1.0",
                "id": f"{n}",
                "type": "shipment.moved",
                "time": "2026-01-01T10:00:00Z",
                "data": {"lat": 53.5, "lon": 9.9} if n % 2 else {"shipment": "S2"},
            }
            for n in _NUMBERS
        ],
        "item",
        {"": 5},
    ),
    "pages of a list": _lines(
        [{"page": p, "total": 4, "shipments": [{"id": p * 2}, {"id": p * 2 + 1}]} for p in range(2)],
        "shipments.item",
        {"": 4},
    ),
    "pages with a header": _lines(
        [{"meta": {"page": p, "total": 4}, "data": [{"id": p * 2}, {"id": p * 2 + 1}]} for p in range(2)],
        "data.item",
        {"": 4},
    ),
    "an array of pages": _of(
        [{"page": p, "shipments": [{"id": p * 2}, {"id": p * 2 + 1}]} for p in range(2)],
        "item.shipments.item",
        {"": 4},
    ),
    "records by day": _of(
        {"status": "ok", "byDay": {f"2026-01-0{n}": [{"id": n, "kg": 1.5}, {"id": 10 + n, "kg": 2}] for n in _NUMBERS}},
        "byDay.*.item",
        {"": 10},
    ),
    "records by their number": _of({f"S-{n}": {"kg": n, "to": "HAM"} for n in (1, 2)}, "*", {"": 2}),
    "stock by article": _of(
        [{"site": site, "stock": {f"SKU{n:03}": n for n in _NUMBERS}} for site in ("HAM", "BER")], "item", {"": 2}
    ),
    "filters larger than the data": _of(
        {
            "meta": {"filters": {f"f{n}": {"a": n, "b": n} for n in range(10)}, "user": "x"},
            "carriers_statistics": [{"name": f"c{n}", "count": n} for n in range(9)],
            "shipments": [{"id": 1, "kg": 2.5}],
        },
        "shipments.item",
        {"": 1},
    ),
    "a matrix beside places": _of(
        {
            "code": "Ok",
            "durations": [[0, 10.5, 20], [10.5, 0, 15], [20, 15, 0]],
            "sources": [{"name": name, "location": [9.9, 53.5]} for name in "abc"],
        },
        "item",
        {"": 1, "sources": 3},
    ),
    "two lists of the same": _of(
        {"confirmed": [{"order": "A1", "state": "OK"}], "failed": [{"order": "A2", "state": "LATE"}]},
        "item",
        {"": 1, "confirmed": 1, "failed": 1},
    ),
    "records of arrays only": _lines(
        [{"legs": [{"from": "AAA", "km": n}]} for n in _NUMBERS], "item", {"": 5, "legs": 5}
    ),
    "false, nothing and empty arrays for objects": _lines(
        [
            {
                "id": n,
                "driver": {"name": "x"} if n % 2 else False,
                "contact": {"name": "x"} if n % 2 else "",
                "dims": {"l": 1.5, "w": 2} if n % 2 else [],
                "lines": [{"sku": "a"}] if n % 2 else {},
                "price": 12.5 if n % 2 else False,
            }
            for n in _NUMBERS
        ],
        "item",
        {"": 5, "lines": 3},
    ),
    "names in other letters": _of(
        [
            {"Straße": "a", "Køretøj": "b", "Дата": "2026-01-01", "重量": 1.5, "%": 5, "a.b": {"c.d": 1}}
            for _ in _NUMBERS
        ],
        "item",
        {"": 5},
    ),
}
"""By what they are."""

ROWS = {
    "a first row with the names": [["order", "kg"], ["A1", 1.5], ["A2", 2.5]],
    "rows without names": [["A1", 1.5], ["A1", 2.5]],
    "a view of Socrata": {
        "meta": {"view": {"id": "ab12-cd34", "columns": [{"fieldName": ":sid"}, {"fieldName": "order"}]}},
        "data": [["row-1", "A1"], ["row-2", "A2"]],
    },
    "a table of pandas, split": {"columns": ["order", "kg"], "index": [0, 1], "data": [["A1", 1.5], ["A2", 2.5]]},
    "a table of pandas, by columns": {"order": {"0": "A1", "1": "A2"}, "kg": {"0": 1.5, "1": 2.5}},
    "arrays of columns": {"order": ["A1", "A2"], "kg": [1.5, 2.5]},
    "arrays of columns in an object": {
        "latitude": 52.5,
        "generationtime_ms": 0.2,
        "hourly": {"time": ["2026-01-01T00:00", "2026-01-01T01:00"], "temperature": [1.5, 2.5], "wind": [3, 4]},
    },
    "arrays of values under keys": {
        "full_count": 3,
        "version": 4,
        "2f1d1": ["3C66A1", 54.5, "F-EDDH"],
        "2f1d2": ["3C66A2", 55.5, "F-EDDH"],
    },
    "series of measurements": {
        "results": [
            {"statement_id": 0, "series": [{"name": "cpu", "columns": ["time", "kg"], "values": [["a", 1], ["b", 2]]}]}
        ]
    },
    "states of aircraft": {
        "time": 1767225600,
        "states": [["3c6444", "DLH9", "Germany"], ["3c6445", "DLH8", "Germany"]],
    },
}
"""Documents whose records are no objects, by what they are."""

RECORDS_OF_ROWS: dict[str, list[dict[str, Any]]] = {
    "a first row with the names": [{"order": "A1", "kg": 1.5}, {"order": "A2", "kg": 2.5}],
    "rows without names": [{"c1": "A1", "c2": 1.5}, {"c1": "A1", "c2": 2.5}],
    "a view of Socrata": [{":sid": "row-1", "order": "A1"}, {":sid": "row-2", "order": "A2"}],
    "a table of pandas, split": [{"order": "A1", "kg": 1.5}, {"order": "A2", "kg": 2.5}],
    "a table of pandas, by columns": [
        {"index": "0", "order": "A1", "kg": 1.5},
        {"index": "1", "order": "A2", "kg": 2.5},
    ],
    "arrays of columns": [{"order": "A1", "kg": 1.5}, {"order": "A2", "kg": 2.5}],
    "arrays of columns in an object": [
        {"time": "2026-01-01T00:00", "temperature": 1.5, "wind": 3},
        {"time": "2026-01-01T01:00", "temperature": 2.5, "wind": 4},
    ],
    "arrays of values under keys": [
        {"key": "2f1d1", "c1": "3C66A1", "c2": 54.5, "c3": "F-EDDH"},
        {"key": "2f1d2", "c1": "3C66A2", "c2": 55.5, "c3": "F-EDDH"},
    ],
    "series of measurements": [{"time": "a", "kg": 1}, {"time": "b", "kg": 2}],
    "states of aircraft": [
        {"c1": "3c6444", "c2": "DLH9", "c3": "Germany"},
        {"c1": "3c6445", "c2": "DLH8", "c3": "Germany"},
    ],
}
"""The records that the proposed commands make of these."""
