"""Schemas of the routes of texts: embeddings in OpenAI's form, and rerank as Jina and Cohere have it."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from api.openapi.schemas.bodies import RequestBody, ResponseBody
from api.openapi.schemas.jobs import TokenIds
from jobs.contract.embeddings import ENCODINGS, MAX_TEXTS

_Encoding = Annotated[str, Field(json_schema_extra={"enum": list(ENCODINGS)})]


class EmbeddingsRequest(RequestBody):
    """Texts to embed."""

    model: str = ""
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_TEXTS)]
    )
    """A text, a list of texts, or token ids in place of a text."""
    encoding_format: _Encoding = ENCODINGS[0]
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """The number of dimensions of the answer, if the model can shorten its vectors."""
    prompt_name: str | None = None
    """The prompt of the model that is put before each text."""
    user: Any = None
    """Ignored."""

    example: ClassVar[dict[str, Any]] = {"model": "sentences", "input": ["first text", "second text"]}


class TextUsage(ResponseBody):
    """The number of tokens that the model got."""

    prompt_tokens: int | None = None
    total_tokens: int


class Embedding(ResponseBody):
    """The vector of one text."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """Numbers, or little-endian float32 in base64."""


class Embeddings(ResponseBody):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: TextUsage

    example: ClassVar[dict[str, Any]] = {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.12, -0.03, 0.99]}],
        "model": "sentences",
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
    }


class DocumentText(RequestBody):
    """A document. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    text: str


class RerankRequest(RequestBody):
    """A query, and the documents to rank."""

    model: str = ""
    query: str
    documents: Annotated[list[str | DocumentText], Field(min_length=1, max_length=MAX_TEXTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    """Answer only the best."""
    return_documents: bool = False
    """Answer the texts too."""

    example: ClassVar[dict[str, Any]] = {
        "model": "ranker",
        "query": "red",
        "documents": ["blue", "green green"],
        "top_n": 1,
    }


class RankedText(ResponseBody):
    """The text of a document."""

    text: str


class RankedDocument(ResponseBody):
    """A document and its score."""

    index: int
    """The place in the request, from 0."""
    relevance_score: float
    document: RankedText | None = None


class Ranking(ResponseBody):
    """The documents, the best first."""

    model: str
    results: list[RankedDocument]
    usage: TextUsage

    example: ClassVar[dict[str, Any]] = {
        "model": "ranker",
        "results": [{"index": 1, "relevance_score": 712.0}],
        "usage": {"total_tokens": 11},
    }
