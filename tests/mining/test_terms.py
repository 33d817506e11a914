"""BM25 in many scripts: what is written alike is found, whatever marks, blanks and code points it is written with."""

# ruff: noqa: RUF001 (texts in many scripts)

from __future__ import annotations

import random
import unicodedata

import pytest
from mining_fakes import ReadableRetriever

from hyperseek.index import Index
from hyperseek.mining import BM25
from hyperseek.mining._bm25 import terms
from hyperseek.plan import FullText
from hyperseek.types import Document

# A sentence, and words of it that a reader would ask for.
SCRIPTS = {
    "english": ("The cat sleeps in the garden", ["cat", "garden"]),
    "german": ("Die Straße zum Bahnhof ist gesperrt", ["STRASSE", "bahnhof"]),
    "french": ("Le café d'été est fermé", ["café", "été"]),
    "russian": ("Кошка спит в саду", ["кошка", "САДУ"]),
    "greek": ("Η γάτα κοιμάται στον κήπο", ["γάτα", "κήπο"]),
    "turkish": ("İstanbul'da yağmur yağıyor", ["istanbul", "yağmur"]),
    "vietnamese": ("Con mèo ngủ trong vườn", ["mèo", "vườn"]),
    "hebrew": ("הֶחָתוּל יָשֵׁן בַּגַּן", ["הֶחָתוּל", "יָשֵׁן", "ישן"]),
    "arabic": ("القِطُّ يَنَامُ في الحَدِيقَةِ", ["يَنَامُ", "ينام"]),
    "persian": ("گربه می‌خوابد", ["گربه", "می‌خوابد"]),
    "hindi": ("बिल्ली बगीचे में सोती है", ["बिल्ली", "सोती"]),
    "bengali": ("বিড়াল বাগানে ঘুমায়", ["বিড়াল", "বাগানে"]),
    "telugu": ("పిల్లి తోటలో నిద్రిస్తుంది", ["పిల్లి", "తోటలో"]),
    "tamil": ("பூனை தோட்டத்தில் தூங்குகிறது", ["பூனை"]),
    "malayalam": ("പൂച്ച തോട്ടത്തിൽ ഉറങ്ങുന്നു", ["പൂച്ച"]),
    "sinhala": ("පූසා වත්තේ නිදාගනී", ["පූසා"]),
    "burmese": ("ကြောင်သည်ဥယျာဉ်တွင်အိပ်သည်", ["ကြောင်", "ဥယျာဉ်"]),
    "khmer": ("ឆ្មាដេកក្នុងសួន", ["ឆ្មា", "សួន"]),
    "thai": ("แมวนอนอยู่ในสวน", ["แมว", "สวน"]),
    "lao": ("ແມວນອນຢູ່ໃນສວນ", ["ແມວ"]),
    "tibetan": ("ཞི་མི་གཉིད་ཉལ", ["ཞི"]),
    "chinese": ("猫在花园里睡觉", ["猫", "花园", "睡觉"]),
    "japanese": ("ネコが庭で寝ています", ["ネコ", "庭", "寝て"]),
    "korean": ("고양이가 정원에서 잔다", ["고양이", "정원"]),
    "amharic": ("ድመቷ በአትክልቱ ውስጥ ትተኛለች", ["ድመቷ"]),
    "georgian": ("კატა ბაღში სძინავს", ["კატა"]),
    "armenian": ("Կատուն քնում է այգում", ["կատուն"]),
    "wide": ("ｆｕｌｌ ｗｉｄｔｈ", ["full", "width"]),
}


@pytest.fixture(scope="module")
def index() -> BM25:
    return BM25([Document(name, sentence) for name, (sentence, _) in SCRIPTS.items()])


def test_words_are_found_in_every_script(index: BM25) -> None:
    for name, (_, words) in SCRIPTS.items():
        for word in words:
            for form in ("NFC", "NFD", "NFKC", "NFKD"):
                found = list(index.run({"q": unicodedata.normalize(form, word)})["q"])
                assert found[:1] == [name], (name, word, form, found)


def test_a_text_has_the_same_terms_in_every_form() -> None:
    draw = random.Random(0)
    texts = [sentence for sentence, _ in SCRIPTS.values()]
    letters = [chr(code) for code in range(0x20, 0x3400) if unicodedata.category(chr(code))[0] in "LMNP"]
    texts += ["".join(draw.choice([*letters, " "]) for _ in range(12)) for _ in range(400)]
    for text in texts:
        forms = {form: terms(unicodedata.normalize(form, text)) for form in ("NFC", "NFD", "NFKC", "NFKD")}
        assert all(found == forms["NFC"] for found in forms.values()), (text, forms)
        assert all((term == unicodedata.normalize("NFKC", term) and any(map(str.isalnum, term))) or "_" in term
                   for term in forms["NFC"]), (text, forms["NFC"])  # fmt: skip


def test_ascii_texts_have_the_terms_they_have_among_others() -> None:
    draw = random.Random(1)
    for _ in range(300):
        text = "".join(draw.choice("ab Z9_'-.,\n\t") for _ in range(15))
        assert terms(f"{text} 文") == [*terms(text), "文"], text


def test_letters_after_an_apostrophe_are_no_words() -> None:
    assert terms("The cat's don't we're o'clock") == ["the", "cat", "don", "we", "re", "o", "clock"]
    assert terms("l’été d'Artagnan’s") == ["l", "été", "d", "artagnan"]


def test_words_of_one_letter_are_found_and_decide_among_equals() -> None:
    documents = [Document("b", "vitamin b"), Document("c", "vitamin c"), Document("x", "planet x"), Document("n", "न")]
    index = BM25(documents)
    run = index.run({"one": "x", "both": "vitamin c", "none": "y", "two": "न"})
    assert {name: list(found) for name, found in run.items()} == {
        "one": ["x"], "both": ["c", "b"], "none": [], "two": ["n"],
    }  # fmt: skip
    only = BM25([Document("a", "x y"), Document("b", "y z")]).run({"q": "z y"})
    assert list(only["q"]) == ["b", "a"]


def test_sums_that_are_equal_on_paper_tie() -> None:
    """Each document has the same counts of other words, all words being equally frequent."""
    words = [f"w{place}" for place in range(5)]
    documents = [
        Document(str(shift), " ".join(" ".join([words[(place + shift) % 5]] * (place + 1)) for place in range(5)))
        for shift in range(5)
    ]
    draw = random.Random(2)
    for _ in range(20):
        query = " ".join(draw.sample(words, 5))
        found = BM25(documents).run({"q": query})["q"]
        assert list(found) == [document.id for document in documents]
        assert len(set(found.values())) == 1


def test_emoji_are_words() -> None:
    assert terms("I ❤️ 🍕🍕, © 👍🏽") == ["i", "❤", "🍕", "🍕", "👍"]
    assert terms("🇩🇪🇫🇷 👩‍💻") == ["🇩🇪", "🇫🇷", "👩", "💻"]
    texts = ["no food", "a pizza 🍕", "a heart ❤", "good 👍🏿", "flag 🇫🇷", "a pizza 🍕 and a heart ❤️"]
    index = BM25([Document(str(place), text) for place, text in enumerate(texts)])
    run = index.run({query: query for query in ("🍕", "❤️", "👍", "🇫🇷", "🇩🇪", "🍕❤")})
    found = {query: list(ranking) for query, ranking in run.items()}
    assert found == {"🍕": ["1", "5"], "❤️": ["2", "5"], "👍": ["3"], "🇫🇷": ["4"], "🇩🇪": [], "🍕❤": ["5", "1", "2"]}
    assert min(run["🍕"].values()) > 0.1


class AnyText(ReadableRetriever):
    """Compiles any text; its scores do not matter where words find the documents."""

    def compile_batches(self, queries, *options):
        yield from super().compile_batches(["0"] * len(queries), *options)


def test_the_full_text_of_an_index_finds_the_same_emoji(tmp_path, monkeypatch) -> None:
    texts = ["no food", "a pizza 🍕", "a heart ❤", "good 👍🏿", "flag 🇫🇷", "a pizza 🍕 and a heart ❤️", "sky ☁ and ★"]
    texts.append("flags 🇩🇪🇫🇷")
    documents = [Document(str(place), text, metadata={"year": place}) for place, text in enumerate(texts)]
    documents.append(Document("title", "nothing", "🍕"))
    index, words = Index.build(tmp_path / "index", documents, AnyText()), BM25(documents)
    for query in ("🍕", "❤️", "👍", "👍🏻", "🇫🇷", "🇩🇪", "🇪🇫", "🍕❤", "★", "🍕, ❤!", "🏿", "→"):
        found = index.run({"0": query}, plan=FullText(n=10))["0"]
        expected = words.run({"0": query})["0"]
        assert set(found) == set(expected), query
        assert not found or next(iter(found)) == next(iter(expected)), query
    assert list(index.run({"0": "🍕"}, plan=FullText(n=10), where="year >= 2")["0"]) == ["5"]
    assert list(index.run({"0": "🍕❤"}, k=1, plan=FullText(n=1))["0"]) == ["5"]
    monkeypatch.setattr("hyperseek.store.table._MOST_LISTED", 0)  # as if more documents were allowed than are listed
    assert list(index.run({"0": "🍕"}, k=1, plan=FullText(n=1), where="year >= 2")["0"]) == ["5"]
