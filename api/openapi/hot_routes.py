"""Declares the hot routes for the document. `api/routes/hot_jobs.py` serves them without FastAPI."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query

from api.asgi.fastapi_adapter import operation_id
from jobs.contract.job import LANES

router: Final = APIRouter(tags=["jobs"], generate_unique_id_function=operation_id)

_Lane = Annotated[str, Query(json_schema_extra={"enum": list(LANES)}, description="As in the body.")]
_Json = Annotated[str, Query(description="As in the body, as JSON text.")]
_Number = Annotated[int | None, Query(ge=1, description="As in the body.")]
_Wait = Annotated[int, Query(ge=0, description="Wait up to this many seconds for the end of the job.")]

_Tenant = Annotated[str, Query(description="another tenant, or `*` for any; needs a key with the role admin")]


@router.post("/v1/jobs", summary="Submit a job, or many")
async def submit_job(
    *,
    model: Annotated[str, Query(description="As in the body. The default of all jobs of the request.")] = "",
    parameters: _Json = "",
    lane: _Lane = "",
    deadline_ms: _Number = None,
    metadata: _Json = "",
    webhook: Annotated[str, Query(description="As in the body: a URL, or JSON text.")] = "",
    rows: _Number = None,
) -> Any:
    """Accept one job, or up to 1,000 as NDJSON or as a JSON array.

    The fields of the query are for bodies that are not JSON. Of a request of many jobs, the query may have `model` and
    `lane`, for jobs that do not name them. The answer is 202 with the jobs. With `Prefer: wait=N` it is 200 once all
    jobs are final. A job that failed is answered as any other: its `status` says so.

    A refused job among many is an entry with an `error`. If no job is accepted, the answer is the error of the first.
    """


@router.get("/v1/jobs/{job_id}", summary="Read a job, or wait for its end")
async def read_job(job_id: str, wait: _Wait = 0, tenant: _Tenant = "") -> Any:
    """Answer the job as it is, or with `wait` once it is final or the time is over.

    Unknown ids, those of other tenants, and those of jobs whose result is no longer kept get the same 404.
    """


@router.get("/v1/jobs/{job_id}/output", summary="Read the output of a job alone")
async def read_output(job_id: str, wait: _Wait = 0, tenant: _Tenant = "") -> Any:
    """Answer the output as JSON, or with `Accept: application/octet-stream` the bytes of its only tensor.

    The bytes need a job with the parameter `encoding` = `base64`.
    """
