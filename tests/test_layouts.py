"Small folders in every true layout go through doctor, reader, store, a few training steps and evaluation."

import numpy as np
import pytest

from synthreid.core import UserError
from synthreid.data.datasets import hold_out, load_dataset
from synthreid.data.doctor import examine
from synthreid.data.store import load_images
from synthreid.metrics.evaluate import evaluate_reid
from synthreid.render.layouts import LAYOUT_NAMES, make_layout
from synthreid.training.direct import DirectConfig
from synthreid.training.runs import Run

NAMED = {
    'pattern': dict(pattern='{split}/{pid}-cam{cam}-{*}.png'),
    'syri': {},
    'occluded_duke': {},
    'market1501_500k': {},
}  # not recognised by themselves


@pytest.mark.parametrize('name', LAYOUT_NAMES)
def test_from_folder_to_table(name, tmp_path):
    if name == 'cuhk03':
        pytest.importorskip('h5py')
    root = tmp_path / 'data'
    make_layout(name, root, ids=8, per_id=4)
    key = name if name in NAMED else 'auto'
    options = NAMED.get(name, {})
    found = examine(root, layout=key, progress=False, **options)
    assert found.exit_code < 2, found
    dataset = load_dataset(key, root, **options)
    labelled = dataset.labelled() if len(dataset.gallery) else dataset.train.relabel()
    source = load_images(labelled, '32x16', cache=tmp_path / 'cache', progress=False)
    config = DirectConfig(size='32x16', backbone='resnet_small', steps=2, batch_size=8)
    method, done = Run(tmp_path / 'run', 'direct', config, device='cpu').train(
        source, tensorboard=False, progress=False
    )
    assert done == 2
    test = dataset if len(dataset.query) else hold_out(dataset.train, 0.5)
    query, gallery = (
        load_images(s, '32x16', cache=tmp_path / 'cache', progress=False) for s in (test.query, test.gallery)
    )
    result = evaluate_reid(method.embed, query, gallery, protocol=test.rule)
    assert 0 < result.mAP <= 1 and result.n_valid > 0 and np.isfinite(result.cmc).all()
    assert result.protocol.startswith(test.rule)


def test_a_layout_that_is_not_there_is_named(tmp_path):
    (tmp_path / 'a').mkdir()
    with pytest.raises(UserError, match='expected images'):
        load_dataset('auto', tmp_path)
    (tmp_path / 'a.jpg').write_bytes(b'')
    with pytest.raises(UserError, match='known layout'):
        load_dataset('auto', tmp_path)
