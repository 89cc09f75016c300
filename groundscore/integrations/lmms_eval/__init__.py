"""Tasks of lmms-eval: masks on ReasonSeg, RefCOCO/+/g and gRefCOCO, which its own tasks score by boxes or captions.

    export GROUNDSCORE_DATA=dataset
    python -m lmms_eval --model dummy --tasks groundscore_refcoco_unc_val --log_samples --output_path logs \
        --include_path "$(python -c 'from groundscore.integrations import lmms_eval; print(*lmms_eval.__path__)')"

A task is a YAML file of four lines beside `_default_yaml`; what it calls is in `task.py`.
"""
