"""Every row of the table of towers against the tower itself: a new row is tested by adding its sizes here."""

import pytest
import torch

from schemas.chat import ImageRule
from schemas.errors import InputError
from tests.trainer.conftest import RULE
from trainer.inputs.pictures import prepare
from trainer.models.assemble import assemble
from trainer.models.folder import ModelFolder
from trainer.models.kernels import transformer_layers
from trainer.models.towers import TOWERS, tower_of
from trainer.stages import unreached_parameters

SHAPE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
SIZES = {
    "clip_vision_model": {"intermediate_size": 24},
    "siglip_vision_model": {"intermediate_size": 24},
    "dinov2": {"mlp_ratio": 2},
    "dinov2_with_registers": {"mlp_ratio": 2, "num_register_tokens": 3},
}


def configured(kind, **changes):
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **{**SHAPE, **SIZES[kind], **changes})


def saved(kind, folder, **changes):
    from transformers import AutoModel

    torch.manual_seed(1)
    AutoModel.from_config(configured(kind, **changes)).save_pretrained(folder)
    return folder


def rule_of(kind):
    row = TOWERS[kind]
    tokens = row.tokens(SIZES[kind])
    return ImageRule("square", 16, 8, select="full" if tokens > 1 else "patch", class_token=tokens)


def joined(kind, tiny, folder, layer):
    import transformers

    made = ModelFolder.open(
        assemble(saved(kind, folder / "tower"), tiny / "llm", folder / "m", rule=rule_of(kind), select_layer=layer)
    )
    return made, getattr(transformers, made.model_class).from_pretrained(made.path)


def test_every_row_is_tested():
    assert SIZES.keys() == TOWERS.keys()


@pytest.mark.parametrize("layer", [-2, -1, 1])
@pytest.mark.parametrize("kind", SIZES)
def test_what_gets_no_gradient_is_what_the_table_says(kind, layer, tiny, tmp_path):
    """And the picture takes as many tokens as the table counts: transformers refuses another number."""
    folder, model = joined(kind, tiny, tmp_path, layer)
    rule = rule_of(kind)
    from tests.trainer.conftest import picture

    seen = prepare(picture(1), rule, folder.mean, folder.std)
    ids = torch.tensor([[folder.image_id] * rule.tokens(*seen.size) + [5, 6, 7]])
    labels = torch.where(ids == folder.image_id, -100, ids)
    model(input_ids=ids, pixel_values=torch.from_numpy(seen.pixels), labels=labels).loss.backward()
    idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert idle == set(unreached_parameters(model))
    assert len(transformer_layers(model)) == 2 + SHAPE["num_hidden_layers"]


@pytest.mark.parametrize("kind", SIZES)
def test_positions_are_interpolated_where_the_table_says(kind):
    from transformers import AutoModel

    tower = AutoModel.from_config(configured(kind)).eval()
    larger = torch.zeros(1, 3, 24, 24)
    assert TOWERS[kind].fits((16, 8), 24, 8) == TOWERS[kind].any_size
    if not TOWERS[kind].any_size:
        with pytest.raises((ValueError, RuntimeError)):
            tower(larger)
        return
    seen = tower(larger).last_hidden_state
    assert seen.shape[1] == 9 + TOWERS[kind].tokens(SIZES[kind])


@pytest.mark.parametrize(
    ("kind", "processor"),
    [("clip_vision_model", "CLIPImageProcessor"), ("siglip_vision_model", "SiglipImageProcessor")],
)
def test_colours_are_those_of_the_towers_own_processor(kind, processor):
    import transformers

    theirs = getattr(transformers, f"{processor}Pil")
    assert list(TOWERS[kind].mean) == list(theirs.image_mean)
    assert list(TOWERS[kind].std) == list(theirs.image_std)


def test_a_siglip2_of_a_fixed_resolution_is_a_siglip(tiny, tmp_path):
    """As google/siglip2-so400m-patch14-384 is published: a `siglip` of two sides, with the larger vocabulary."""
    from transformers import LlavaForConditionalGeneration, SiglipConfig, SiglipModel

    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = SiglipConfig(
        text_config={**text, "vocab_size": 90}, vision_config=configured("siglip_vision_model").to_dict()
    )
    SiglipModel(both).save_pretrained(tmp_path / "siglip2")
    made = assemble(tmp_path / "siglip2", tiny / "llm", tmp_path / "m", rule=rule_of("siglip_vision_model"))
    _, loading = LlavaForConditionalGeneration.from_pretrained(made, output_loading_info=True)
    assert not any(loading[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("whole", [False, True])
def test_a_naflex_siglip2_is_refused_in_one_line(whole, tiny, tmp_path):
    from transformers import Siglip2Config, Siglip2Model, Siglip2VisionConfig, Siglip2VisionModel

    text = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = Siglip2VisionConfig(**text, patch_size=8, num_patches=4)
    kind = Siglip2Model if whole else Siglip2VisionModel
    config = Siglip2Config(text_config={**text, "vocab_size": 90}, vision_config=vision.to_dict()) if whole else vision
    kind(config).save_pretrained(tmp_path / "naflex")
    with pytest.raises(InputError, match=r"NaFlex.*Give a SigLIP2 of a fixed resolution"):
        assemble(tmp_path / "naflex", tiny / "llm", tmp_path / "m", rule=RULE)


def test_an_unknown_tower_is_refused_with_what_would_fit():
    with pytest.raises(InputError, match=r"clip_vision'.*Did you mean 'clip_vision_model'\?.*SigLIP2 or DINOv2"):
        tower_of("clip_vision", "here")
