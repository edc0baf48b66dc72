"""Definitions of datasets that several rooms of tests use."""

from collections.abc import Callable

from etl.datasets import Dataset

Define = Callable[..., Dataset]

# The shipments of the generator once more, but every record that comes is a row: what is loaded twice shows.
DELIVERIES = """
name = "deliveries"
mode = "append"
[[table]]
name = "logistics.deliveries"
[table.columns]
shipment_id = { type = "text", required = true, max_length = 50 }
carrier = { type = "text", max_length = 100 }
created_at = { type = "timestamptz", required = true }
promised_at = "timestamptz"
updated_at = "timestamptz"
origin_city = { path = "origin.city", type = "text", max_length = 100 }
destination_city = { path = "destination.city", type = "text", max_length = 100 }
weight_kg = { type = "numeric", above = 0 }
pieces = { type = "integer", min = 0 }
note = { type = "text", max_length = 500 }
[[table]]
name = "logistics.delivery_items"
each = "items"
[table.columns]
shipment_id = { path = "^.shipment_id", type = "text" }
line_no = { path = "#", type = "integer" }
sku = { type = "text", max_length = 50 }
description = { type = "text", max_length = 200 }
quantity = { type = "integer", min = 0 }
weight_kg = { type = "numeric", min = 0 }
"""

# Two kinds of records, each with a table.
EVENTS = """
name = "events"
mode = "merge"
key = ["id"]
newest_by = "version"
[[table]]
name = "logistics.transport_events"
where = { type = "TRANSPORT" }
[table.columns]
id = { type = "text", required = true }
version = "integer"
port = { type = "text", required = true }
[[table]]
name = "logistics.equipment_events"
where = { type = ["EQUIPMENT", "BOX"], "box.sealed" = [true, 1] }
[table.columns]
id = { type = "text", required = true }
version = "integer"
box = { path = "box.code", type = "text" }
"""

# The smallest records, in many files.
SMALL_PARCELS = """
name = "parcels"
mode = "append"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = "text"
weight = { type = "integer", min = 0 }
"""

# Records with a key and children.
ITEMS = """
name = "items"
mode = "replace"
key = ["id"]
[[table]]
name = "lab.items"
[table.columns]
id = { type = "integer", required = true }
v = "text"
n = { type = "integer", min = 0 }
[[table]]
name = "lab.item_parts"
each = "parts"
[table.columns]
id = { path = "^.id", type = "integer" }
part = { path = ".", type = "integer" }
"""
