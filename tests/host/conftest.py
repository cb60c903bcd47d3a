"""A real ComfyUI: as a server process, in this process, and with its frontend in a browser."""

import gc
import importlib
import importlib.util
import pkgutil
import shutil
import types

import pytest
import torch

from tools import comfyui
from tools.input_pictures import write_input_pictures
from tools.models import SD1_CHECKPOINT, family_checkpoint, share_models, small_models
from toytown.demo import NODE as TOY_TOWN_NODE

TOY_TOWN = "magictailor_toytown"


@pytest.fixture(scope="session")
def comfy_root():
    """Root folder of the host under test."""
    return comfyui.locate_comfyui()


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory):
    """One host installation with this pack, the toy town's node and the small models; shared by all tests of a run."""
    base = comfyui.make_base_dir(tmp_path_factory.mktemp("host"))
    shutil.copytree(TOY_TOWN_NODE, base / "custom_nodes" / TOY_TOWN)
    share_models(small_models(), base / "models")
    return base


@pytest.fixture(scope="session")
def checkpoint_name():
    """Name of the small SD 1.x checkpoint in the host's list of checkpoints."""
    return SD1_CHECKPOINT


@pytest.fixture(scope="session")
def server(comfy_root, base_dir):
    """A running server on the CPU."""
    with comfyui.ComfyServer(comfy_root, base_dir) as running:
        yield running


@pytest.fixture(scope="session")
def host(comfy_root, base_dir):
    """The host and this pack imported into this process: .nodes (the host's stock nodes), .pack (this pack)."""
    host = types.SimpleNamespace(nodes=comfyui.import_host(comfy_root, base_dir), pack=comfyui.load_pack())
    host.pack.register_model_folders()
    # the pack itself imports most of its library when a node runs
    library = host.pack.magictailor
    for module in pkgutil.walk_packages(library.__path__, f"{library.__name__}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    # what was imported stays; garbage is collected several times in each training, and would be looked for in all of it
    gc.collect()
    gc.freeze()
    return host


@pytest.fixture(scope="session")
def loaded_checkpoint(host, checkpoint_name):
    """MODEL, CLIP and VAE of the small checkpoint in this process; shared, so a test must leave them as they were."""
    return host.nodes.CheckpointLoaderSimple().load_checkpoint(checkpoint_name)


@pytest.fixture(scope="session")
def nodes(host):
    """This pack's nodes, in this process."""
    return host.pack.nodes


@pytest.fixture(scope="session")
def library(host):
    """This pack's library, in this process, with all its modules."""
    package = host.pack.magictailor
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    return package


@pytest.fixture(scope="session")
def described(server):
    """The server's description of every node of this pack, by id, in the pack's order."""
    return server.pack_nodes()


@pytest.fixture(scope="session")
def taesd(host):
    """A small autoencoder from another loader: the checkpoint's own is slow on a CPU."""
    with torch.inference_mode():
        return host.nodes.VAELoader().load_vae("taesd")[0]


@pytest.fixture(scope="session")
def toy_town_vision(host, base_dir):
    """CLIP_VISION and CLIP of the toy town."""
    path = base_dir / "custom_nodes" / TOY_TOWN / "__init__.py"
    spec = importlib.util.spec_from_file_location("magictailor_toytown_in_this_process", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # it looks the pack up among the nodes that a host has loaded
    module.toytown = lambda name: importlib.import_module(f"{host.pack.__name__}.{name}")
    with torch.inference_mode():
        return module.LoadToyTownVision.execute().args


@pytest.fixture(scope="session")
def load_family(host, base_dir, loaded_checkpoint):
    """Loads MODEL, CLIP and VAE of a family's small checkpoint, which is made when it is first asked for.

    With `text_layers`, the host's own option cuts the big text encoders off after so many layers: they take most of the
    time on a CPU.
    """

    def load(name, text_layers=None):
        if name == "sd1":
            return loaded_checkpoint[:3]
        path = family_checkpoint(name)
        share_models(small_models(), base_dir / "models")
        if text_layers is None:
            return host.nodes.CheckpointLoaderSimple().load_checkpoint(path.name)[:3]
        import comfy.sd

        depth = {f"{key}_model_config": {"num_hidden_layers": text_layers} for key in ("clip_h", "clip_g")}
        folder = str(base_dir / "models" / "embeddings")
        return comfy.sd.load_checkpoint_guess_config(str(path), embedding_directory=[folder], te_model_options=depth)[
            :3
        ]

    return load


@pytest.fixture(scope="session")
def one_each(base_dir, rendered_pair):
    """A folder in the host's input folder with one picture of the concept and one of the component."""
    folder = base_dir / "input" / "house_one+roof_one"
    (folder / "masks").mkdir(parents=True)
    for name in ("0_house_a0", "1_roof_a0"):
        shutil.copy(rendered_pair / f"{name}.jpg", folder)
        shutil.copy(rendered_pair / "masks" / f"{name}.png", folder / "masks")
    return folder


@pytest.fixture(scope="session")
def input_pictures(base_dir, rendered_pair):
    """The host's input folder with what the shipped workflows name: pictures, painted masks, references."""
    folder = base_dir / "input"
    write_input_pictures(folder, side=128)
    references = folder / "tower_a+roof_a+door_a"
    (references / "masks").mkdir(parents=True)
    for source, name in (("0_house_a0", "0_tower_a0"), ("1_roof_a0", "1_roof_a0"), ("1_roof_a2", "2_door_a0")):
        shutil.copy(rendered_pair / f"{source}.jpg", references / f"{name}.jpg")
        shutil.copy(rendered_pair / "masks" / f"{source}.png", references / "masks" / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def frontend(server):
    """The server's frontend in a headless browser."""
    from tools.workflow import Frontend

    with Frontend(server.url) as page:
        yield page
