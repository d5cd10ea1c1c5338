import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from prn_fast.build.export import export_onnx
from prn_fast.model.config import PRNConfig
from tests.small_package import small_config, small_model, textured_images

# Each network is exported.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module", params=["elementwise", "pointwise", "resnet18-colour"])
def model(request):
    if request.param == "resnet18-colour":
        return small_model(PRNConfig(image_size=64, prototypes=(3, 2, 4), attention_layers=2))
    return small_model(small_config(projection=request.param))


@pytest.fixture(scope="module")
def exported(model):
    return onnx.load_from_string(export_onnx(model))


def test_onnx_runtime_computes_what_the_module_computes(model, exported):
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = textured_images(count, model.config.image_channels, 40 + count)
        scores, maps = session.run(["scores", "maps"], {"images": images})
        with torch.no_grad():
            expected_scores, expected_maps = model.detect(torch.from_numpy(images))
        # Rounding in float32 grows through a random network; a wrong formula would show in the first digit.
        np.testing.assert_allclose(maps, expected_maps.numpy(), atol=5e-3)
        np.testing.assert_allclose(scores, expected_scores.numpy(), atol=5e-3)
        assert float(np.abs(maps - expected_maps.numpy()).mean()) < 1e-4


def test_bytes_go_in_and_the_batch_is_free(model, exported):
    (images,) = exported.graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    dims = images.type.tensor_type.shape.dim
    assert dims[0].dim_param
    assert [dim.dim_value for dim in dims[1:]] == [64, 64, model.config.image_channels]
    assert [output.name for output in exported.graph.output] == ["scores", "maps"]


def test_there_is_no_batch_norm_and_no_wide_grouped_convolution(model, exported):
    assert "BatchNormalization" not in {node.op_type for node in exported.graph.node}
    groups = [
        attribute.i
        for node in exported.graph.node
        if node.op_type == "Conv"
        for attribute in node.attribute
        if attribute.name == "group"
    ]
    # The widest is a depthwise convolution of the backbone; TensorRT refuses the published projections' 524,288.
    assert max(groups) <= 1152
