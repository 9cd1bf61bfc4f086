"""Benchmarks are known by their content: a file called mnist_train.npz is MNIST only if its images and labels are."""

from dataclasses import replace

from vaenb.data.imageset import ImageSet

# ImageSet.digest of the complete sets, in the originals' order.
DIGESTS = {
    ("mnist_small", "train"): "8bd2bf289d6b",  # 4,000 + 1,000 of MNIST's images, and of Fashion-MNIST's
    ("mnist_small", "test"): "f220a6d4ea88",
    ("fashion_small", "train"): "47a36623c931",
    ("fashion_small", "test"): "ff71ccfa314c",
    ("mnist", "train"): "71d3be42f93a",
    ("mnist", "test"): "4718853ea946",
    ("fashion_mnist", "train"): "a8007d7be041",
    ("fashion_mnist", "test"): "3581bf52f521",
    ("kmnist", "test"): "68ec5f656afa",
    ("emnist_letters", "test"): "75fe2f60bfe6",
    ("cifar10", "train"): "f3120a8fa253",
    ("cifar10", "test"): "815bee49b921",
    ("celeba_10k", "train"): "87032d9112c7",  # docs/data.md says what the last two are
    ("celeba_10k", "test"): "d2562e161ade",
    ("svhn_7k", "train"): "c5213f8324f6",
    ("svhn_7k", "test"): "15f3c2a49437",
}


def named_by_content(images: ImageSet) -> ImageSet:
    """Give a set that is not the benchmark of its name another one, so that nothing counts as measured on it.

    A set whose original's digest is not known here (SVHN, CelebA, …) says that nobody checked it.
    """
    known = DIGESTS.get((images.name, images.split))
    if known == images.digest:
        return images
    doubt = "not checked" if known is None else "not the original"
    return replace(images, name=f"{images.name} ({doubt})")
