"""The mistakes of `tests/mutations.py`: where, which text becomes which, and who has to notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str  # what goes wrong
    file: str
    old: str  # found once in the file
    new: str
    tests: tuple[str, ...]


TILING = "tests/entk/test_tiling.py"


def exact(case: str, outputs: str = "all", strategy: str = "rows") -> str:
    return f"tests/entk/test_ntk.py::test_float64[{case}-{outputs}-{strategy}]"


def defined(case: str, outputs: str = "all", strategy: str = "pairs") -> str:
    """By the PyTorch definitions of the products."""
    return f"tests/entk/test_ntk.py::test_the_definitions[{case}-{outputs}-{strategy}]"


def jacobian(case: str) -> str:
    return f"tests/entk/test_jacobian.py::test_every_output[{case}]"


def derived(case: str) -> str:
    return f"tests/entk/test_derived.py::test_float64[{case}-all]"


def derived_jacobian(case: str) -> str:
    return f"tests/entk/test_derived.py::test_jacobian[{case}]"


def path(case: str) -> str:
    return f"tests/entk/test_derived.py::test_which_path[{case}]"


def chosen(case: str) -> str:
    return f"tests/entk/test_samples.py::test_outputs[{case}-all]"


def given(way: str) -> str:
    return f"tests/entk/test_samples.py::test_inputs[{way}-all]"


def refused(name: str, file: str = "inputs") -> str:
    return f"tests/entk/test_{file}.py::test_refused[{name}]"


SKETCHED = "tests/entk/test_sketch.py::test_every_case_is_its_definition"
DISTRIBUTE, DISTRIBUTED = "tests/entk/test_distribute.py", "tests/entk/test_distributed.py"
NATIVE = "tests/entk/ops/test_native_products.py"

MUTANTS = tuple(
    Mutant(name, f"entk/{file}.py", old, new, tests)
    for file, name, old, new, *tests in (
        ("rules/linear", "a bias counts at its first position only", "-1, g.shape[-1]).sum(2)", "-1, g.shape[-1])[:, :, 0]", exact("linear_tokens")),
        ("rules/linear", "a bias is left out", "-1, g.shape[-1]).sum(2)", "-1, g.shape[-1]).sum(2).mul(0)", exact("linear")),
        ("rules/linear", "positions of the input run backwards", "a = x.reshape(n, -1, x.shape[-1]).mT[:, None]", "a = x.reshape(n, -1, x.shape[-1]).flip(1).mT[:, None]", exact("linear_tokens")),
        ("rules/linear", "rows of a matrix on the right lie as those of a layer", '"transposed": True', '"transposed": False', derived_jacobian("matrix_products")),
        ("rules/linear", "anything but a matrix on the right is taken for one", "w.dim() == 2 and x.dim() >= 2", "w.dim() >= 1 and x.dim() >= 2", derived("matrix_of_heads")),
        ("rules/conv", "a group reads channels of another", "return x.reshape(n, groups, channels // groups * kernel.numel(), -1)", "return x.reshape(n, channels // groups, groups, kernel.numel(), -1).transpose(1, 2).flatten(2, 3)", exact("conv2d_groups")),
        ("rules/conv", "dilation is left out", "x = x[..., :: dilation[axis]]", "x = x[..., :size]", exact("conv2d_dilation")),
        ("rules/conv", "strides of the axes change places", "dilation[axis] * (size - 1) + 1, stride[axis])", "dilation[axis] * (size - 1) + 1, stride[-1 - axis])", exact("conv2d_stride")),
        ("rules/conv", "padding is ones", "x = F.pad(x, pads) if any(pads) else x", "x = F.pad(x, pads, value=1.0) if any(pads) else x", exact("conv2d_stride")),
        ("rules/conv", "padding of the axes changes places", "pads += [_tuple(padding, len(kernel))[axis]] * 2", "pads += [_tuple(padding, len(kernel))[-1 - axis]] * 2", exact("conv2d_stride")),
        ("rules/conv", "padding 'same' has its odd one at the start", "[total // 2, total - total // 2]", "[total - total // 2, total // 2]", exact("conv2d_same_even")),
        ("rules/conv", "taps lie in another order than the weight's", "*window, *positions)", "*reversed(window), *positions)", jacobian("conv2d_stride")),
        ("rules/conv", "a transposed convolution's taps are one off", "pads += [pad[axis], reach - pad[axis] - g.shape[3 + axis]]", "pads += [pad[axis] - 1, reach - pad[axis] - g.shape[3 + axis] + 1]", derived("transposed_2d")),
        ("rules/conv", "a transposed convolution's rows lie in another order", "nogkt->nogik", "nogkt->nogki", derived_jacobian("transposed_2d")),
        ("rules/conv", "a transposed convolution's dilation is left out", '"dilation": dilation, "groups"', '"dilation": 1, "groups"', derived("transposed_1d")),
        ("rules/base", "a bias is its mean over positions", "return g.flatten(3).sum(3)", "return g.flatten(3).mean(3)", exact("conv2d")),
        ("rules/base", "arguments by name are overlooked", "strict=False)), **kwargs}", 'strict=False)), **{k: v for k, v in kwargs.items() if k != "stride"}}', derived("options_by_name")),
        ("rules/norm", "the weight of a channel has the rows of a bias", "return lambda g: over_positions(g * factor)", "return lambda g: over_positions(g + 0 * factor)", exact("batchnorm2d")),
        ("rules/norm", "the weight is within what it multiplies", '_AFFINE = ("weight", "bias")', '_AFFINE = ("bias",)', exact("groupnorm")),
        ("rules/norm", "the bias of a layer norm counts twice", "return lambda g: _over_leading(g, ", "return lambda g: 2 * _over_leading(g, ", exact("layernorm")),
        ("rules/norm", "batch norm has another eps", 'options.get("eps", 1e-5)', "1e-3", exact("batchnorm2d")),
        ("rules/norm", "batch norm forgets its weight", "scale = scale if weight is None else scale * weight", "scale = scale if weight is None else scale + 0 * weight", exact("batchnorm2d")),
        ("rules/norm", "rms norm subtracts the mean", "_normalised(F.rms_norm, _AFFINE)", "_normalised(lambda input, normalized_shape, eps=None: F.layer_norm(input, normalized_shape), _AFFINE)", exact("rmsnorm")),
        ("rules/embedding", "padding_idx is forgotten", 'padding = arguments.get("padding_idx")', "padding = None", exact("embedding_padding")),
        ("rules/embedding", "padding_idx is not counted from the end", 'padding % len(arguments["weight"])', "padding", derived("padding_from_the_end")),
        ("rules/embedding", "derivatives by frequency are taken for plain ones", ' and not arguments.get("scale_grad_by_freq", False)', "", derived("by_frequency")),
        ("rules/activation", "a slope sees all of the input", "x.clamp(max=0)", "x.clamp(max=9e9)", exact("prelu")),
        ("rules/activation", "one slope for all is averaged", ".sum(2, keepdim=True)", ".mean(2, keepdim=True)", derived("prelu_one_slope")),
        ("rules/elementwise", "a factor's rows lack what it multiplies", "factor = x[:, None]", "factor = torch.ones_like(x)[:, None]", derived("scales")),
        ("rules/elementwise", "alpha is overlooked", 'arguments.get("alpha", 1) != 1', 'arguments.get("alpha", 1) is None', derived("alpha")),
        ("rules/elementwise", "a view is added to in place", 'return fits(arguments) and not arguments["input"]._is_view()', "return fits(arguments)", derived("added_to_a_view")),
        ("rules/attention", "scores are divided by the width", "q.shape[-1] ** -0.5", "q.shape[-1] ** -1.0", exact("attention")),
        ("rules/attention", "the mask is left out", "mask = _mask(attn_mask, scores)", "mask = None", derived("masked_attention")),
        ("rules/attention", "padded keys are attended to", "scores = scores + padding[:, None, None]", "scores = scores + 0", derived("masked_attention")),
        ("rules/attention", "weights of heads are summed, not averaged", "attended.mean(1) if average_attn_weights", "attended.sum(1) if average_attn_weights", derived("average_weights")),
        ("rules/attention", "the mean of a bag counts its padding", "inside.sum(1).clamp(min=1)[:, None]", "input.shape[1]", derived("bag_mean_padding")),
        ("rules/attention", "weights of a bag's samples are left out", "each = each * per_sample_weights[..., None]", "each = each * 1", derived("bag_of_weighted")),
        ("rules/recurrent", "the reset gate lacks its hidden part", "torch.sigmoid(r + u) * w", "torch.sigmoid(r) * w", exact("gru")),
        ("rules/recurrent", "the forget gate keeps all", "torch.sigmoid(f) * state[1]", "state[1]", exact("lstm")),
        ("rules/recurrent", "backward outputs stay reversed", "found.append(y.flip(0) if d else y)", "found.append(y)", exact("lstm_two_layers_both_ways")),
        ("rules/recurrent", "the hidden bias is the other one", "own_hidden, biases[1]))", "own_hidden, biases[0]))", exact("lstm")),
        ("rules/unrolled", "every call is thought to be plain", "return recurrent.is_plain(args) if condition is None else condition(*args, **kwargs)", "return True", derived("keys_of_its_own")),
        ("factors", "only the first use of a weight counts", "torch.cat([p.a for p in parts], -1), torch.cat([p.g for p in parts], -1)", "parts[0].a, parts[0].g", exact("module_twice", strategy="pairs")),
        ("factors", "the mirror is skipped", "square.add_(square.tril(-1).mT)", "square.add_(0)", exact("linear")),
        ("factors", "a transposed tile keeps its outputs in place", "tile.permute(2, 3, 0, 1) if", "tile.permute(2, 1, 0, 3) if", exact("mlp")),
        ("factors", "padding is the token 0", "self.a.masked_fill(self.a < 0, vocabulary)", "self.a.clamp(min=0)", exact("embedding_padding")),
        ("capture", "rows of one repeat stand for all", ".unflatten(0, (-1, layout.repeat)).sum(1)", ".unflatten(0, (-1, layout.repeat))[:, 0]", exact("tokens_flattened")),
        ("capture", "inputs and gradients of the repeats are added up", ".movedim(1, -2).flatten(-2)", ".sum(1)", exact("tokens_flattened", strategy="pairs")),
        ("capture", "every gradient is that of the first output", "torch.autograd.grad(y[:, o].sum(), edges,", "torch.autograd.grad(y[:, 0].sum(), edges,", exact("linear")),
        ("capture", "an overwritten input goes unnoticed", 'self.arguments["input"]._version != self.version', "self.version is None", refused("input_overwritten")),
        ("capture", "dropout in training mode goes unnoticed", "return module.p > 0", "return False", refused("dropout_training")),
        ("recorder", "operands do not change places", 'arguments["input"], arguments["other"] = arguments["other"], arguments["input"]', "pass", path("scales")),
        ("recorder", "what is noted is a view that is written to", "return output.clone() if first or output._is_view() else output", "return output", exact("inplace_relu_of_a_view")),
        ("recorder", "random functions pass", "if training and p:", "if False:", refused("functional_dropout")),
        ("recorder", "a derivative inside the model goes unnoticed", "self.differentiates = True", "self.differentiates = False", "tests/entk/test_unusual_models.py"),
        ("derived", "what comes from data is taken for a weight", "if node in noted:\n            return None", "if node in noted:\n            continue", path("mixed_with_tokens")),
        ("derived", "leaves of a derived tensor change places", "for leaf, g in zip(leaves, found, strict=True)", "for leaf, g in zip(leaves, found[::-1], strict=True)", derived_jacobian("low_rank")),
        ("layouts", "a repeat is taken to lie together", "(weighted - expected).norm() <= rounding(plain.dtype) * weighted.norm()", "repeat > 1 or (weighted - expected).norm() <= rounding(plain.dtype) * weighted.norm()", exact("time_first_flattened")),
        ("features", "of a derived tensor's shares the last one counts", "rows[name] = rows[name] + part if name in rows else part", "rows[name] = part", derived("masked_twice")),
        ("features", "of a weight's calls the last one counts", "self.rows[s.name][:, start : start + count] += part", "self.rows[s.name][:, start : start + count] = part", exact("module_twice")),
        ("features", "the last outputs never become rows", "if to_rows and (o % depth == depth - 1 or o == self.found.outputs - 1):", "if to_rows and o % depth == depth - 1:", "tests/entk/test_invariants.py::test_outputs_in_chunks[2]"),
        ("features", "the sum of the outputs is not asked for", 'total = plan.outputs == "sum"', "total = False", exact("linear", "sum")),
        ("features", "a sketch forgets what has no rule", "block.project(name, j, 0)", "block.project(name, 0 * j, 0)", f"{SKETCHED}[raw_matmul-True]", f"{SKETCHED}[bilinear-True]"),
        ("assemble", "the samples x stand for z", "x, z = self.target.x, self.target.z", "x, z = self.target.x, self.target.z\n        z = None if z is None else x[: len(z)]", exact("mlp")),
        ("assemble", "the tile of a block with itself is not mirrored", "if lower:\n                    mirror(", "if False:\n                    mirror(", exact("conv2d", strategy="pairs")),
        ("assemble", "the first tile of each row is thought to be square", "self.tile(a, b, lower=a is b)) for", "self.tile(a, b, lower=i == j)) for", exact("mlp")),
        ("assemble", "the last part of the outputs counts", "whole[group][0] += t", "whole[group][0] = t", f"{TILING}::test_outputs_in_parts[2-trace-mlp]"),
        ("assemble", "parts of a diagonal are side by side the wrong way", "torch.cat(parts) for group", "torch.cat(parts[::-1]) for group", f"{TILING}::test_outputs_in_parts[2-diagonal-mlp]"),
        ("assemble", "of the passes of a block the first one counts", "join([each.pop(name) for each in made])", "join([made[0][name] for _ in made])", f"{TILING}::test_passes_smaller_than_tiles[all-rows-mlp]"),
        ("features", "factors of the first pass come last", "for each in (first, *self.more)]", "for each in (*self.more, first)]", f"{TILING}::test_passes_smaller_than_tiles[all-pairs-mlp]"),
        ("assemble", "the last column of blocks is dropped", "for j in sorted({j for _, j in todo}):", "for j in sorted({j for _, j in todo})[:-1]:", exact("mlp")),
        ("assemble", "of the small parameters the first one counts", "small = [torch.cat(small, 2)]", "small = small[:1]", exact("mlp")),
        ("kernel", "the last tile is dropped", "in engine.tiles(wanted):", "in engine.tiles(wanted[:-1]):", exact("mlp")),
        ("request", "params= is overlooked", "names = parameter_names(model, params)", "names = parameter_names(model, None)", "tests/entk/test_ntk.py::test_named_parameters_frozen_ones_too"),
        ("request", "strict= is overlooked", "if strict:", "if False:", "tests/entk/test_model_forms.py::test_strict"),
        ("request", "the mode of the model is not looked at", "check_state(model)\n", "pass\n", refused("batchnorm_batch_statistics"), refused("recurrent_dropout_training")),
        ("request", "a plan for another kernel is run", '"outputs": target.outputs,', "", "tests/entk/test_plan.py::test_a_plan_serves_its_own_mode_only"),
        ("samples", "positions in select= are overlooked", "return flat.flatten(1)[:, index]", "return flat.flatten(1)", chosen("positions")),
        ("samples", "a function in select= is overlooked", "return select(y)", "return y", chosen("function_to_a_tuple")),
        ("samples", "of several outputs the first tensor counts", "else t[:, None] for t in tensors], 1)", "else t[:, None] for t in tensors[:1]], 1)", chosen("tuple")),
        ("samples", "a model writes into the caller's samples", "if trace else t.clone()", "if trace else t", "tests/entk/test_unusual_models.py::test_tokens_are_left_alone"),
        ("samples", "what is no tensor changes its place", "leaves.insert(place, leaf)", "leaves.append(leaf)", given("number_first")),
        ("models", "select= is overlooked", "return chosen_outputs(self.inner(*args, **kwargs), self.select)", "return self.inner(*args, **kwargs)", chosen("slice")),
        ("models", "a function gets no whole numbers", "held |= dict(self.named_buffers(remove_duplicate=False))", "pass", "tests/entk/test_model_forms.py::test_a_function_of_parameters"),
        ("models", "a function gets its tensors doubled", "nn.Parameter(tensor.detach(), trainable)", "nn.Parameter(2 * tensor.detach(), trainable)", "tests/entk/test_model_forms.py::test_a_function_of_parameters"),
        ("ops/native", "a layer's bias is left out", "_unit(weight, 1), y, bias)", "_unit(weight, 1), y, None)", f"{NATIVE}::test_linear"),
        ("ops/native", "a layer's backward pass is doubled", "return grad, None, None", "return 2 * grad, None, None", f"{NATIVE}::test_linear"),
        ("ops/native", "the memory of a negative view is taken for it", "    t = t.resolve_neg()\n", "", "tests/entk/test_negative_views.py"),
        ("ops/native", "factors of any strides are thought to be dense", "(t.resolve_neg().contiguous() for t in (*x, *z))", "(*x, *z)", f"{NATIVE}::test_products_of_other_layouts"),
        ("ops/native", "fused products have a lower triangle only", "_mode(outputs), lower)", "_mode(outputs), True)", exact("mlp", strategy="fused")),
        ("ops/native", "rows of a strided side are read as dense", "_unit(j, 1), _unit(k, 1)", "(t for t in (j, k))", f"{NATIVE}::test_gram_leaves_what_lies_beside_its_output_alone", f"{NATIVE}::test_gram"),
        ("ops/gram", "the diagonal takes the first output of z", "accumulate(j[:, o], k[:, o], out[o], lower)", "accumulate(j[:, o], k[:, 0], out[o], lower)", defined("linear", "diagonal", "rows")),
        ("ops/pairs_gram", "products of positions have a lower triangle only", "first = m if lower else 0", "first = m", defined("linear_tokens")),
        ("ops/pairs_gram", "padding matches padding", " & (a[:, :, None] >= 0)", "", defined("embedding_padding")),
        ("sketch", "all parameters have the same probes", "{side} {name}", "{side}", f"{SKETCHED}[mlp-True]"),
        ("sketch", "the seed is overlooked", "{self.sketch.seed} {side}", "{side}", f"{SKETCHED}[mlp-True]"),
        ("distribute", "tiles are left to the ranks that have too many", "room = limit - len(tiles)", "room = 0", f"{DISTRIBUTE}::test_each_missing_tile_has_one_rank_and_no_rank_too_many"),
        ("distribute", "blocks are captured that belong to no group of the rank", "return (i - first[(j - i) % ranks]) % ranks", "return (i + j) % ranks", f"{DISTRIBUTE}::test_a_rank_captures_the_blocks_of_its_groups"),
        ("peers", "sums are added in another order than by one process", "for number in sorted(merged))", "for number in sorted(merged, reverse=True))", f"{DISTRIBUTED}::test_distances_are_the_same_bits_for_any_number_of_ranks"),
        ("peers", "only rank 0 hears that requests differ", "verdict = self.broadcast(verdict)", "self.broadcast(None)", f"{DISTRIBUTED}::test_errors_are_told_to_all_and_the_group_goes_on"),
    )
)  # fmt: skip
