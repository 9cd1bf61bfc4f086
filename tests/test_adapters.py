"""Models of pythae and diffusers, as they come and as they were saved, keep the contract and their own numbers."""

import sys

import pytest
import torch

from tests.oracles import LinearGaussian, seeded
from vaenb.audit import audit, from_diffusers, from_pythae, wrap
from vaenb.audit.budget import Budget
from vaenb.audit.reference import Band
from vaenb.audit.verdicts import warnings
from vaenb.contract import NotDefined, check_contract
from vaenb.distributions import standard_normal
from vaenb.stats import Estimate

QUICK = {"budget": Budget(images=6, attacked=2, steps=2, restarts=1), "progress": False}


@pytest.fixture
def grey():
    return torch.rand(5, 1, 16, 16, generator=seeded())


def pythae_model(name, **settings):
    models = pytest.importorskip("pythae.models")
    torch.manual_seed(0)
    config = getattr(models, f"{name}_Config" if name.startswith("RAE") else f"{name}Config")
    return getattr(models, name)(config(input_dim=(1, 16, 16), latent_dim=4, **settings)).eval()


def kl_model():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    sizes = {"block_out_channels": [4, 4], "norm_num_groups": 2, "latent_channels": 2}
    return diffusers.AutoencoderKL(1, 1, **blocks, **sizes).eval()


@pytest.mark.parametrize(("name", "loss"), [("VAE", "bce"), ("VAE", "mse"), ("BetaTCVAE", "bce")])
def test_pythaes_vaes_have_their_own_loss(name, loss, grey):
    net = pythae_model(name, reconstruction_loss=loss)
    model, x = from_pythae(net), grey
    check_contract(model, x)
    q = model.posterior(x)
    z = q.rsample(generator=seeded())
    vae = pythae_model("VAE", reconstruction_loss=loss)
    _, reconstruction, kl = vae.loss_function(model.decode(z), x, q.mean, q.logvar, z)
    constant = 0 if loss == "bce" else 128 * torch.tensor(2 * torch.pi).log()  # of a Gaussian of 256 pixels
    assert torch.allclose(reconstruction, -model.log_likelihood(x, z).mean() - constant, rtol=1e-4)
    assert torch.allclose(kl, q.kl(standard_normal(z)).mean(), rtol=1e-4)


@pytest.mark.parametrize("name", ["VAE", "BetaTCVAE", "RAE_L2", "VQVAE"])
def test_what_pythae_saved_is_read(name, grey, tmp_path):
    net = pythae_model(name)
    net.save(str(tmp_path / "final_model"))
    model = from_pythae(tmp_path / "final_model")
    check_contract(model, grey)
    own = net({"data": grey}).recon_x if name in ("RAE_L2", "VQVAE") else net.decoder(net.encoder(grey).embedding)
    own = getattr(own, "reconstruction", own)
    assert torch.allclose(model.decode(model.posterior(grey).mean), own.view_as(grey), atol=1e-5)
    with pytest.raises(FileNotFoundError, match=r"did you mean .*final_model\?"):
        from_pythae(tmp_path)


def test_models_without_densities_get_what_is_defined_for_them(grey):
    report = audit(from_pythae(pythae_model("VQVAE")), grey, **QUICK)
    assert report["clean: ELBO"].startswith("not defined: ")
    assert isinstance(report["encoder: AADDC"], Estimate)


def test_other_models_of_pythae_are_refused():
    with pytest.raises(ValueError, match="model: one of pythae's VAE, .* got VAMP; vaenb.audit.wrap takes any"):
        from_pythae(pythae_model("VAMP"))


def test_diffusers_autoencoder_keeps_its_densities_and_its_range(grey):
    net, x = kl_model(), grey
    model = from_diffusers(net)
    check_contract(model, x)
    q, own = model.posterior(x), net.encode(2 * x - 1).latent_dist
    z = q.rsample(generator=seeded())
    assert torch.allclose(-q.log_prob(z), own.nll(z.unflatten(1, (2, 8, 8))), rtol=1e-4)
    assert torch.allclose(q.kl(standard_normal(z)), own.kl(), rtol=1e-4)
    copy = (net.decode(z.view(-1, 2, 8, 8)).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(model.decode(z), copy, atol=1e-6)
    gaussian = torch.distributions.Normal(model.decode(z), 0.1)
    assert torch.allclose(model.log_likelihood(x, z), gaussian.log_prob(x).sum((1, 2, 3)), rtol=1e-5)


def test_what_diffusers_saved_is_read_and_bfloat16_is_widened(grey, tmp_path):
    net = kl_model()
    net.save_pretrained(tmp_path / "kl")
    whole = from_diffusers(tmp_path / "kl")
    assert torch.equal(whole.posterior(grey).mean, from_diffusers(net).posterior(grey).mean)
    half = from_diffusers(net.to(torch.bfloat16))
    check_contract(half, grey)
    assert half.posterior(grey).mean.dtype == torch.float32
    assert torch.allclose(half.posterior(grey).mean, whole.posterior(grey).mean, atol=0.1)
    with pytest.raises(FileNotFoundError, match="config.json is not there; a folder that save_pretrained wrote"):
        from_diffusers(tmp_path / "nothing")


def test_a_tiny_autoencoder_has_codes_and_no_densities():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = from_diffusers(diffusers.AutoencoderTiny(latent_channels=4))
    x = torch.rand(3, 3, 16, 16, generator=seeded())
    check_contract(model, x)
    assert model.posterior(x).mean.shape == (3, 16)
    with pytest.raises(NotDefined):
        model.log_prior(model.posterior(x).mean)


def test_two_functions_become_a_model():
    """The linear Gaussian model, seen through images in −1…1."""
    known = LinearGaussian(shape=(1, 8, 8), s=0.1)
    x = known.decode(torch.randn(4, 3, generator=seeded()))

    def encode(images):
        q = known.posterior((images + 1) / 2)
        return q.mean.view(-1, 3, 1, 1), q.logvar.view(-1, 3, 1, 1)

    model = wrap(encode, lambda z: 2 * known.decode(z.flatten(1)) - 1, pixels=(-1, 1), sigma=0.1)
    check_contract(model, x)
    z = known.posterior(x).mean
    assert torch.allclose(model.posterior(x).mean, z, atol=1e-4)
    assert torch.allclose(model.decode(z), known.decode(z), atol=1e-6)
    assert torch.allclose(model.log_likelihood(x, z), known.log_likelihood(x, z), rtol=1e-4)
    for wrong, match in (
        ({"pixels": (1, -1)}, "pixels: "),
        ({"sigma": 0}, "sigma: "),
        ({"likelihood": "l1"}, "one of"),
    ):
        with pytest.raises(ValueError, match=match):
            wrap(encode, encode, **wrong)


def test_a_decoder_of_which_much_is_cut_off_is_told(grey):
    """Logits, and −1…1 taken for 0…1."""
    few = torch.randn(4, 256, generator=seeded())

    def encode(x):
        return x.flatten(1)[:, :4], torch.zeros(len(x), 4)

    def logits(z):
        return (z @ few).view(-1, 1, 16, 16)

    shown = logits(grey.flatten(1)[:, :4])
    model = wrap(encode, logits)
    assert model.cut_off(grey) == pytest.approx(((shown < -0.05) | (shown > 1.05)).float().mean().item())
    report = audit(model, grey, **QUICK)
    assert any("lie outside of the range that `pixels` says" in line for line in warnings(report, Band("", {})))
    for decode, pixels in ((lambda z: logits(z).tanh(), (-1, 1)), (lambda z: logits(z).sigmoid(), (0, 1))):
        assert wrap(encode, decode, pixels=pixels).cut_off(grey) == 0


def test_what_is_no_pair_is_refused_by_wrap(grey):
    for wrong in ((torch.zeros(3, 4), torch.zeros(3, 5)), [torch.zeros(3, 4)] * 4, object()):
        with pytest.raises(ValueError, match=r"encode: a tensor, or \(mean, log variance\), two of one shape"):
            wrap(lambda x, found=wrong: found, lambda z: z).posterior(grey)


@pytest.mark.parametrize(("adapt", "library"), [(from_diffusers, "diffusers"), (from_pythae, "pythae")])
def test_a_missing_library_is_named(adapt, library, monkeypatch, tmp_path):
    for module in (library, f"{library}.models"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=f"{library} is not installed; pip install {library}"):
        adapt(tmp_path)
