"""Where the published data sets are: addresses, sizes and SHA-256 sums, as far as they are known."""

from __future__ import annotations

from dataclasses import dataclass

VOC_HOST = "http://host.robots.ox.ac.uk/pascal/VOC"


@dataclass(frozen=True)
class Source:
    """A file to download. ``sha256`` and ``size`` (bytes) are ``None`` where its publisher says neither."""

    url: str
    sha256: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rsplit("/", 1)[1]


def _voc(year: int, name: str, sha256: str, size: int | None = None) -> Source:
    return Source(f"{VOC_HOST}/voc{year}/{name}.tar", sha256, size)


SOURCES: dict[str, tuple[Source, ...]] = {
    "voc2007": (
        _voc(
            2007,
            "VOCtrainval_06-Nov-2007",
            "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
            460_032_000,
        ),
        _voc(2007, "VOCtest_06-Nov-2007", "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892"),
    ),
    "voc2008": (
        _voc(2008, "VOCtrainval_14-Jul-2008", "7f0ca53c1b5a838fbe946965fc106c6e86832183240af5c88e3f6c306318d42e"),
    ),
    "voc2009": (
        _voc(2009, "VOCtrainval_11-May-2009", "11cbe1741fb5bdadbbca3c08e9ec62cd95c14884845527d50847bc2cf57e7fd6"),
    ),
    "voc2010": (
        _voc(2010, "VOCtrainval_03-May-2010", "1af4189cbe44323ab212bff7afbc7d0f55a267cc191eb3aac911037887e5c7d4"),
    ),
    "voc2011": (
        _voc(2011, "VOCtrainval_25-May-2011", "0a7f5f5d154f7290ec65ec3f78b72ef72c6d93ff6d79acd40dc222a9ee5248ba"),
    ),
    "voc2012": (
        _voc(
            2012,
            "VOCtrainval_11-May-2012",
            "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
            1_999_639_040,
        ),
    ),
    "sbdd": (
        Source(
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
            "6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
        ),
    ),
    "pascal-context": (
        Source("https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz"),
        Source("https://www.cs.stanford.edu/~roozbeh/pascal-context/labels.txt"),
    ),
    "siftflow": (Source("http://www.cs.unc.edu/~jtighe/Papers/ECCV10/siftflow/SiftFlowDataset.zip"),),
    "nyud": (Source("http://people.eecs.berkeley.edu/~sgupta/cvpr13/data.tgz"),),
}
"""By name. PASCAL-Context also needs ``voc2010``, its pictures."""
