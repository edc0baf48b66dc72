"""Words in the names of members: what they say about a document, a record or a value. Values, and nothing else."""

import re

from etl.inference.identifiers import words, words_of

IDS = words("guid id uuid")
CODES = words(
    "awb barcode bic code ean gtin hawb iban imo key mawb mmsi no nr num number ref reference sscc tracking vin"
)
"""The last word of a name of an identifier: IDS for any record, CODES for records that have one."""

_CODE_WORDS = CODES | words(
    """
    account barcode hs id iso phone plz postal postcode scac serial sku swift tel unlocode upc uuid zip
    zipcode
    """
)
_MEASURE_WORDS = words(
    """
    amount balance charge cost distance eur fee freight height kg km l lat latitude lb length lng lon
    longitude m3 mi miles price rate tax temperature total usd value volume weight width
    """
)
"""A measure or an amount may have a fraction later, even if no observed value has one."""

_TIME_WORDS = words(
    """
    arrival arrived at ata atd changed closed completed created date day delivered departed departure due end
    ended epoch eta etd expires finished generated issued last lastmodified loaded modified moment ms occurred
    on opened ordered packed paid picked planned processed published received recorded scanned seen sent
    shipped since stamp start started time timestamp ts until updated when
    """
)

_META = words(
    """
    aggregations columns context cursors debug diagnostics enums error errors extensions facets fields filters
    hateoas header headers included index info legend links messages meta metadata notes notices page pageable
    pages pagination paging parameters params queries query request schema shards statistics stats status
    summary types units usage version versions view warning warnings
    """
)
"""Members with one of these words describe a document, and are no records where it has others."""

_ENVELOPE = words(
    """
    api as at atom attribution base build by cached call client code content context copyright correlation
    count counts created creation currency current cursor data date datetime day deprecated description
    duration elapsed encoding end ended environment error errors etag expires export exported feed file first
    format found from full generated generator generic global graph gtfs has href http https info is item
    items jsonrpc kind lang language last lastmod license limit lineage link links list locale max maximum
    message messages min mode modified more msg name namespace next nextlink odata of offset ok on opensearch
    page pages per prev previous producer profile publisher rate realtime records remaining report request
    response result results returned rows run schema score search self sequence server session shards shown
    size skip skipped sort source spec start started status success successful sum system template time timed
    timestamp timezone title to token took top total totals trace transaction ts ttl type tz until update
    updated uri url user valid version warning warnings xml xmlns xsi
    """
)
"""Scalars whose names consist of such words say how a list was asked for or made; they identify no record."""

_PAGE = words("cursor limit more next offset page pages per prev previous skip token total")
"""Scalars beside the records of one page of a list."""

_REQUESTS = words("api call correlation process request response session trace transaction user")

_RECORDS = words(
    """
    asns assets bookings consignments containers customers deliveries entities entity features hits inventory
    invoices jobs loads movements orders packages parcels pickups positions products records results
    rows shipments stock stocks tours transfers trips trucks value vehicles vessels waybills
    """
)
"""Names of lists of records of their own."""

_LOOKUPS = words(
    """
    carriers categories codes countries currencies dictionary labels legends lookups regions services statuses tags
    users zones
    """
)
"""Names of lists that explain the values of others."""

_NO_IDENTITY = words("extensions facets filters links page pageable paging pagination params query request shards sort")
_TELLING_TIMES = words("asof created creation date day exported generated timestamp updated")
"""Words for the time of the records of a document."""

_PARTS = words(
    """
    activities activity addresses charges checkpoints contacts costs details documents eventlist events
    history items legs line lineitems lines milestones notes packages parties pieces positions references
    scans segments stops
    """
)
"""Names of lists that are mostly parts of the record around them."""

WRAPPERS = words(
    """
    _source attributes body data doc document edges element entity entry fields item node nodes object payload
    properties record resource results row
    """
)
"""An object of such a name around the values of a record adds nothing to the names of its columns."""

COLUMN_LISTS = words("cols column columns field fields header headers heading headings keys names rowtype")
"""Names of the list that names the columns of rows without names."""

_DATA = re.compile(
    r"\d.*|.*\d\D*\d.*|[A-Z]+\d+|[A-Za-z]+[-_:./ #]\d+|(?=.*\d)[0-9a-f]{6,}|.*[0-9A-F]{8}-.*|[A-Z]{2}[A-Z0-9 ]{3}",
    re.DOTALL,
)
_CAPITALS = re.compile(r"[A-Z]{2,5}")
_FEWEST_CAPITALS = 3
_MANY_NAMES = 20
_MOST_ARE_DATA = 0.8


def is_meta(name: str) -> bool:
    """Return whether a member of this name describes the document."""
    return not _META.isdisjoint(words_of(name))


def is_of_envelope(name: str) -> bool:
    """Return whether a scalar of this name belongs to the list that a document is, and not to a record."""
    return _ENVELOPE.issuperset(words_of(name)) or is_of_request(name)


def is_of_page(name: str) -> bool:
    """Return whether a scalar of this name belongs to one page of a list."""
    return not _PAGE.isdisjoint(words_of(name))


def is_of_request(name: str) -> bool:
    """Return whether a name is that of the request or the message, and not of its content."""
    return not _REQUESTS.isdisjoint(words_of(name))


def names_records(name: str) -> bool:
    """Return whether a list of this name has records of their own."""
    return not _RECORDS.isdisjoint(words_of(name)) and _PARTS.isdisjoint(words_of(name))


def is_lookup(name: str) -> bool:
    """Return whether a list of this name explains the values of others."""
    return not _LOOKUPS.isdisjoint(words_of(name))


def identifies(name: str) -> bool:
    """Return whether a scalar of this name may identify the object that has it."""
    last = words_of(name)[-1:]
    return bool(last) and (last[0] in IDS or last[0] in CODES) and not is_of_request(name)


def are_data(names: list[str]) -> bool:
    """Return whether the names of members are data themselves: ids, days, codes, or very many."""
    if not names:
        return False
    if len(names) >= _MANY_NAMES or sum(map(looks_like_data, names)) >= _MOST_ARE_DATA * len(names):
        return True
    return len(names) >= _FEWEST_CAPITALS and all(_CAPITALS.fullmatch(name) for name in names)


def looks_like_data(name: str) -> bool:
    """Return whether a name looks like an id, a day or a code."""
    return _DATA.fullmatch(name) is not None


def is_code(name: str) -> bool:
    """Return whether digits under this name are a code, and no number."""
    return not _CODE_WORDS.isdisjoint(words_of(name)[-1:]) or is_version(name)


def is_version(name: str) -> bool:
    """Return whether numbers under this name count versions, such as 1.0."""
    return words_of(name)[-1].endswith("version")


def is_measure(name: str) -> bool:
    """Return whether numbers under this name measure something or are money."""
    return not _MEASURE_WORDS.isdisjoint(words_of(name))


def is_time(name: str) -> bool:
    """Return whether numbers under this name may be instants."""
    return not _TIME_WORDS.isdisjoint(words_of(name)[-1:])


def identifies_document(path: tuple[str, ...]) -> bool:
    """Return whether a scalar at this path above the records says whose or of when they are."""
    *objects, name = path
    if any(word in _NO_IDENTITY for each in objects for word in words_of(each)) or is_of_request(name):
        return False
    if not _TELLING_TIMES.isdisjoint(words_of(name)):
        return True
    if len(objects) > 1 and is_meta(objects[-1]) and not any(map(is_meta, objects[:-1])):
        return identifies(name)  # the header of a message around the records
    if objects and not is_meta(objects[0]):
        return not any(map(is_meta, objects)) and (identifies(name) or words_of(name)[-1] == "name")
    return not is_of_envelope(name) and not any(map(is_meta, objects[1:]))
