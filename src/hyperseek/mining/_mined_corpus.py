"""The corpora to mine, and their indexes: which one is searched for the queries of which source."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from hyperseek._bounded import PathLike
from hyperseek._fingerprint import fingerprint_json
from hyperseek.data import Dataset
from hyperseek.data.examples import ExampleItem, qualified, source_and_id
from hyperseek.data.open import open_dataset, parse_source, without_name
from hyperseek.data.prepared import CorpusInfo, Prepared, SourceInfo
from hyperseek.data.reading import OnError
from hyperseek.errors import DataError, InputError
from hyperseek.types import Document

if TYPE_CHECKING:
    from hyperseek.index import Index
    from hyperseek.models import Retriever

    Mine: TypeAlias = PathLike | Index | Retriever
else:
    Mine: TypeAlias = Any

# Documents looked up to recognise the collection of an index.
_LOOKED_UP = 200

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """An index, and the names of its documents among the examples.

    Attributes:
        name: The prefix of its documents' ids.
        index: The documents and the model.
        joined: Whether an item's text is title and text joined, rather than the stored text alone.
    """

    name: str
    index: Index
    joined: bool = True

    def own_id(self, identity: str) -> str | None:
        """Return a document's id in the index, or None if it is of another collection."""
        source, original = source_and_id(identity)
        return original if source == self.name else None

    def item(self, document: Document) -> ExampleItem:
        """Return a document as an item of an example."""
        return ExampleItem(qualified(self.name, document.id), document.full_text if self.joined else document.text)

    def items(self, identities: Iterable[str]) -> list[ExampleItem]:
        """Return the stored documents among ids of any collection."""
        own = [own for identity in identities if (own := self.own_id(identity)) is not None]
        return [self.item(document) for document in self.index.get(own).values()]

    def stored(self, items: Iterable[ExampleItem]) -> dict[str, Document]:
        """Look up items.

        Args:
            items: Items of any collection.

        Returns:
            The stored documents, by their id in the index.

        Raises:
            DataError: One is stored with a different text.
        """
        texts = {own: item.text for item in items if (own := self.own_id(item.id)) is not None}
        found = self.index.get(list(texts))
        for own, document in found.items():
            if self.item(document).text.strip() != texts[own].strip():
                raise DataError(
                    f"document {own!r} of {self.name!r} has a different text in the examples; mine an index of the "
                    f"same collection, or name the index's own, as in OTHER=INDEX",
                    path=self.index.path,
                )
        return found

    def info(self, sources: Iterable[str]) -> CorpusInfo:
        """Return a description for the record."""
        about = self.index.info
        return CorpusInfo(
            name=self.name,
            sources=tuple(sources),
            model=self.index.model.source,
            fingerprint=about.fingerprint,
            query_fingerprint=self.index.model.protocol().get("query_fingerprint"),
            data=self.index.data_fingerprint,
            documents=len(self.index),
        )


def opened_corpora(
    mine: Mine | Sequence[Mine],
    prepared: Prepared,
    sources: Iterable[str],
    *,
    work: Path,
    device: str | None = None,
    on_error: OnError = "raise",
) -> dict[str, Corpus]:
    """Find a corpus for every source.

    Args:
        mine: Indexes, paths of indexes as `[NAME=]FOLDER`, and at most one model or model name.
        prepared: The examples.
        sources: Names of their sources.
        work: Where collections are encoded for a model; a killed attempt is resumed there.
        device: Device of models given by name; None takes a GPU if there is one.
        on_error: What happens at a bad record of a collection.

    Returns:
        The corpora, by source.

    Raises:
        InputError: A source has no corpus, or there is a second model.
        DataError: An index named like a source has none of its positives, or other texts.
    """
    sources = list(sources)
    several = isinstance(mine, Sequence) and not isinstance(mine, str)
    indexes, model = _opened(cast("Sequence[Mine]", mine if several else [mine]), device)
    own: dict[str, Corpus] = {}
    others: list[Corpus] = []
    for name, index in indexes:
        corpus = _identified(name, index, prepared, sources)
        if corpus.name in own:
            raise InputError(f"two indexes are given for {corpus.name!r}; give one")
        if corpus.name in sources:
            own[corpus.name] = corpus
        else:
            others.append(corpus)
    missing = [source for source in sources if source not in own]
    if len(others) + (model is not None) > (1 if missing else 0):
        left = [repr(corpus.name) for corpus in others] + ([f"the model {model.source}"] if model is not None else [])
        raise InputError(
            f"{' and '.join(left)} are given for {', '.join(missing) or 'no source'}, which needs "
            f"{'one' if missing else 'none'}; the others have their own indexes"
        )
    if missing and not others and model is None:
        raise InputError(f"there is no index for the examples of {missing[0]!r}; give one, as in {missing[0]}=INDEX")
    for source in missing:
        own[source] = _encoded(source, model, prepared, work, on_error) if model is not None else others[0]
    return {source: own[source] for source in sources}


def _opened(mine: Sequence[Mine], device: str | None) -> tuple[list[tuple[str | None, Index]], Retriever | None]:
    from hyperseek.index import Index

    indexes: list[tuple[str | None, Index]] = []
    models: list[Retriever] = []
    for given in mine:
        name = None
        value: Any = given
        if isinstance(given, str | os.PathLike):
            name, text = without_name(os.fspath(given))
            value = opened(text, device)
        if isinstance(value, Index):
            indexes.append((name, value))
        elif name is not None:
            raise InputError(f"{given!r} is not an index; only indexes can have names, so give a model without one")
        else:
            models.append(value)
    if len(models) > 1:
        raise InputError(f"two models are given to mine with, {models[0].source!r} and {models[1].source!r}; give one")
    return indexes, models[0] if models else None


def opened(given: Mine, device: str | None) -> Index | Retriever:
    """Return an index or a model, opened or loaded where a path or a name is given."""
    from hyperseek.index import Index
    from hyperseek.models import load

    if not isinstance(given, str | os.PathLike):
        return given
    is_index = (Path(given) / "index.json").is_file()
    return Index.open(given, device=device) if is_index else load(given, device=device)


def index_of(collection: Dataset, texts: Mapping[str, str], handle: Index | Retriever, work: Path) -> Index:
    """Return an index of a collection, encoding it where a model is given.

    Args:
        collection: The collection.
        texts: Its texts by id.
        handle: An index of it, or a model.
        work: Where the collection is encoded.

    Returns:
        The index.

    Raises:
        DataError: The index lacks the first documents, or has other texts.
    """
    from hyperseek.index import Index

    if not isinstance(handle, Index):
        folder = work / f"index-{fingerprint_json([handle.fingerprint, collection.fingerprint()])[:12]}"
        total = collection.count()
        return Index.build(folder, collection.documents(), handle, name=collection.name, total=total)
    found = handle.get(list(islice(texts, _LOOKED_UP)))
    if not found or any(one.full_text.strip() != texts[key].strip() for key, one in found.items()):
        raise DataError(
            f"{'has other texts than' if found else 'lacks the first documents of'} {collection.name!r}; give an index "
            f"of that collection, or a model, which encodes it",
            path=handle.path,
        )
    return handle


def _identified(name: str | None, index: Index, prepared: Prepared, sources: Sequence[str]) -> Corpus:
    """Recognise the collection of an index, by its name or its positives."""
    label = name or index.info.name
    if label in sources:
        corpus = Corpus(str(label), index)
        if not corpus.stored(_positives(prepared, corpus.name)):
            raise DataError(
                f"has none of the first positives of {corpus.name!r}; mine an index of that collection, or name "
                f"the index's own, as in OTHER=INDEX",
                path=index.path,
            )
        return corpus
    if name is None:
        for source in sources:
            corpus = Corpus(source, index)
            try:
                found = corpus.stored(_positives(prepared, source))
            except DataError:
                continue
            if found:
                logger.info("the index %s has the positives of %r and is used for it", index.path, source)
                return corpus
    return Corpus(str(label or index.path.stem).replace("/", "-"), index)


def _positives(prepared: Prepared, source: str) -> list[ExampleItem]:
    positives = (item for example in prepared.examples() if example.source == source for item in example.positives)
    return list(islice(positives, _LOOKED_UP))


def _encoded(source: str, model: Retriever, prepared: Prepared, work: Path, on_error: OnError) -> Corpus:
    """Encode the collection of a source, or its examples' documents if it has no collection."""
    from hyperseek.index import Index

    info = next((info for info in prepared.info.sources if info.name == source and info.kind == "qrels"), None)
    content = prepared.info.fingerprint if info is None else info.fingerprint
    folder = work / f"{source}-{fingerprint_json([model.fingerprint, content])[:12]}"
    logger.info("encoding the documents of %r to mine them, in %s meanwhile", source, folder)
    documents = _own_documents(source, prepared) if info is None else _collection(info, on_error)
    return Corpus(source, Index.build(folder, documents, model, name=source), joined=info is not None)


def _collection(info: SourceInfo, on_error: OnError) -> Iterator[Document]:
    return open_dataset(parse_source(info.source).place, name=info.name, on_error=on_error).documents()


def _own_documents(source: str, prepared: Prepared) -> Iterator[Document]:
    for document in prepared.documents():
        name, original = source_and_id(document.id)
        if name == source:
            yield Document(original, document.text)
