"""A cell's database: its schema, who may touch what in it, and the only code here that speaks SQL."""

from domicile.sdk.store.abroad import AbroadStore, ShareableRows
from domicile.sdk.store.across import AcrossStore
from domicile.sdk.store.changes import Plan
from domicile.sdk.store.erasures import Erasure, ErasureStore
from domicile.sdk.store.fences import Fence, FenceReader, FenceStore, RecordedColumn
from domicile.sdk.store.pool import open_own, open_pool
from domicile.sdk.store.port import Condition, Lookups, NewRow, Once, Operator, Rows, Selection, Store, StoredRow, Work
from domicile.sdk.store.pulls import ReferenceStore
from domicile.sdk.store.references import Loaded
from domicile.sdk.store.releases import ArrivalStore, KeptArrival, KeptDeclaration, KeptRelease, Reading, ReleaseStore
from domicile.sdk.store.rows import RowStore
from domicile.sdk.store.schema import Revision, apply_schema, load_reference, plan_schema
from domicile.sdk.store.standby import Standby

__all__ = [
    "AbroadStore",
    "AcrossStore",
    "ArrivalStore",
    "Condition",
    "Erasure",
    "ErasureStore",
    "Fence",
    "FenceReader",
    "FenceStore",
    "KeptArrival",
    "KeptDeclaration",
    "KeptRelease",
    "Loaded",
    "Lookups",
    "NewRow",
    "Once",
    "Operator",
    "Plan",
    "Reading",
    "RecordedColumn",
    "ReferenceStore",
    "ReleaseStore",
    "Revision",
    "RowStore",
    "Rows",
    "Selection",
    "ShareableRows",
    "Standby",
    "Store",
    "StoredRow",
    "Work",
    "apply_schema",
    "load_reference",
    "open_own",
    "open_pool",
    "plan_schema",
]
