"""Whether JSON fits ``config.schema.json``. Written by ``python -m handlers.config_compile``."""

# fmt: off
# mypy: ignore-errors
# ruff: noqa
VERSION = "2.22.3"
from decimal import Decimal


class JsonSchemaValueException(ValueError):
    pass


class JsonSchemaValuesException(ValueError):
    pass


NoneType = type(None)

def validate(data, custom_formats={}, name_prefix=None):
    if not isinstance(data, (dict)):
        raise JsonSchemaValueException("" + (name_prefix or "data") + " must be object")
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['model_config_list']) - data.keys()
        if data__missing_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
        data_keys = set(data.keys())
        if "model_config_list" in data_keys:
            data_keys.remove("model_config_list")
            data__modelconfiglist = data["model_config_list"]
            if not isinstance(data__modelconfiglist, (list, tuple)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".model_config_list must be array")
            data__modelconfiglist_is_list = isinstance(data__modelconfiglist, (list, tuple))
            if data__modelconfiglist_is_list:
                data__modelconfiglist_len = len(data__modelconfiglist)
                for data__modelconfiglist_x, data__modelconfiglist_item in enumerate(data__modelconfiglist):
                    validate___definitions_model(data__modelconfiglist_item, custom_formats, (name_prefix or "data") + ".model_config_list[{data__modelconfiglist_x}]".format(**locals()))
        if "custom_loader_config_list" in data_keys:
            data_keys.remove("custom_loader_config_list")
            data__customloaderconfiglist = data["custom_loader_config_list"]
            if not isinstance(data__customloaderconfiglist, (list, tuple)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".custom_loader_config_list must be array")
            data__customloaderconfiglist_is_list = isinstance(data__customloaderconfiglist, (list, tuple))
            if data__customloaderconfiglist_is_list:
                data__customloaderconfiglist_len = len(data__customloaderconfiglist)
                for data__customloaderconfiglist_x, data__customloaderconfiglist_item in enumerate(data__customloaderconfiglist):
                    validate___definitions_custom_loader(data__customloaderconfiglist_item, custom_formats, (name_prefix or "data") + ".custom_loader_config_list[{data__customloaderconfiglist_x}]".format(**locals()))
        if "custom_node_library_config_list" in data_keys:
            data_keys.remove("custom_node_library_config_list")
            data__customnodelibraryconfiglist = data["custom_node_library_config_list"]
            if not isinstance(data__customnodelibraryconfiglist, (list, tuple)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".custom_node_library_config_list must be array")
            data__customnodelibraryconfiglist_is_list = isinstance(data__customnodelibraryconfiglist, (list, tuple))
            if data__customnodelibraryconfiglist_is_list:
                data__customnodelibraryconfiglist_len = len(data__customnodelibraryconfiglist)
                for data__customnodelibraryconfiglist_x, data__customnodelibraryconfiglist_item in enumerate(data__customnodelibraryconfiglist):
                    validate___definitions_custom_node_library(data__customnodelibraryconfiglist_item, custom_formats, (name_prefix or "data") + ".custom_node_library_config_list[{data__customnodelibraryconfiglist_x}]".format(**locals()))
        if "pipeline_config_list" in data_keys:
            data_keys.remove("pipeline_config_list")
            data__pipelineconfiglist = data["pipeline_config_list"]
            if not isinstance(data__pipelineconfiglist, (list, tuple)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".pipeline_config_list must be array")
            data__pipelineconfiglist_is_list = isinstance(data__pipelineconfiglist, (list, tuple))
            if data__pipelineconfiglist_is_list:
                data__pipelineconfiglist_len = len(data__pipelineconfiglist)
                for data__pipelineconfiglist_x, data__pipelineconfiglist_item in enumerate(data__pipelineconfiglist):
                    validate___definitions_pipeline(data__pipelineconfiglist_item, custom_formats, (name_prefix or "data") + ".pipeline_config_list[{data__pipelineconfiglist_x}]".format(**locals()))
        if "mediapipe_config_list" in data_keys:
            data_keys.remove("mediapipe_config_list")
            data__mediapipeconfiglist = data["mediapipe_config_list"]
            if not isinstance(data__mediapipeconfiglist, (list, tuple)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".mediapipe_config_list must be array")
            data__mediapipeconfiglist_is_list = isinstance(data__mediapipeconfiglist, (list, tuple))
            if data__mediapipeconfiglist_is_list:
                data__mediapipeconfiglist_len = len(data__mediapipeconfiglist)
                for data__mediapipeconfiglist_x, data__mediapipeconfiglist_item in enumerate(data__mediapipeconfiglist):
                    validate___definitions_graph(data__mediapipeconfiglist_item, custom_formats, (name_prefix or "data") + ".mediapipe_config_list[{data__mediapipeconfiglist_x}]".format(**locals()))
        if "monitoring" in data_keys:
            data_keys.remove("monitoring")
            data__monitoring = data["monitoring"]
            if not isinstance(data__monitoring, (dict)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".monitoring must be object")
            data__monitoring_is_dict = isinstance(data__monitoring, dict)
            if data__monitoring_is_dict:
                data__monitoring__missing_keys = set(['metrics']) - data__monitoring.keys()
                if data__monitoring__missing_keys:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".monitoring must contain ")
                data__monitoring_keys = set(data__monitoring.keys())
                if "metrics" in data__monitoring_keys:
                    data__monitoring_keys.remove("metrics")
                    data__monitoring__metrics = data__monitoring["metrics"]
                    if not isinstance(data__monitoring__metrics, (dict)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".monitoring.metrics must be object")
                    data__monitoring__metrics_is_dict = isinstance(data__monitoring__metrics, dict)
                    if data__monitoring__metrics_is_dict:
                        data__monitoring__metrics__missing_keys = set(['enable']) - data__monitoring__metrics.keys()
                        if data__monitoring__metrics__missing_keys:
                            raise JsonSchemaValueException("" + (name_prefix or "data") + ".monitoring.metrics must contain ")
                        data__monitoring__metrics_keys = set(data__monitoring__metrics.keys())
                        if "enable" in data__monitoring__metrics_keys:
                            data__monitoring__metrics_keys.remove("enable")
                            data__monitoring__metrics__enable = data__monitoring__metrics["enable"]
                            if not isinstance(data__monitoring__metrics__enable, (bool)):
                                raise JsonSchemaValueException("" + (name_prefix or "data") + ".monitoring.metrics.enable must be boolean")
                        if "metrics_list" in data__monitoring__metrics_keys:
                            data__monitoring__metrics_keys.remove("metrics_list")
                            data__monitoring__metrics__metricslist = data__monitoring__metrics["metrics_list"]
                            if not isinstance(data__monitoring__metrics__metricslist, (list, tuple)):
                                raise JsonSchemaValueException("" + (name_prefix or "data") + ".monitoring.metrics.metrics_list must be array")
                            data__monitoring__metrics__metricslist_is_list = isinstance(data__monitoring__metrics__metricslist, (list, tuple))
                            if data__monitoring__metrics__metricslist_is_list:
                                data__monitoring__metrics__metricslist_len = len(data__monitoring__metrics__metricslist)
                                for data__monitoring__metrics__metricslist_x, data__monitoring__metrics__metricslist_item in enumerate(data__monitoring__metrics__metricslist):
                                    if not isinstance(data__monitoring__metrics__metricslist_item, (str)):
                                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".monitoring.metrics.metrics_list[{data__monitoring__metrics__metricslist_x}]".format(**locals()) + " must be string")
                        if data__monitoring__metrics_keys:
                            raise JsonSchemaValueException("" + (name_prefix or "data") + ".monitoring.metrics must not contain "+str(data__monitoring__metrics_keys)+" properties")
                if data__monitoring_keys:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".monitoring must not contain "+str(data__monitoring_keys)+" properties")
        if data_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must not contain "+str(data_keys)+" properties")
    return data

def validate___definitions_graph(data, custom_formats={}, name_prefix=None):
    if not isinstance(data, (dict)):
        raise JsonSchemaValueException("" + (name_prefix or "data") + " must be object")
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['name']) - data.keys()
        if data__missing_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
        data_keys = set(data.keys())
        if "name" in data_keys:
            data_keys.remove("name")
            data__name = data["name"]
            if not isinstance(data__name, (str)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".name must be string")
    return data

def validate___definitions_pipeline(data, custom_formats={}, name_prefix=None):
    if not isinstance(data, (dict)):
        raise JsonSchemaValueException("" + (name_prefix or "data") + " must be object")
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['name', 'inputs', 'nodes', 'outputs']) - data.keys()
        if data__missing_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
        data_keys = set(data.keys())
        if "name" in data_keys:
            data_keys.remove("name")
            data__name = data["name"]
            if not isinstance(data__name, (str)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".name must be string")
        if "inputs" in data_keys:
            data_keys.remove("inputs")
            data__inputs = data["inputs"]
            if not isinstance(data__inputs, (list, tuple)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".inputs must be array")
            data__inputs_is_list = isinstance(data__inputs, (list, tuple))
            if data__inputs_is_list:
                data__inputs_len = len(data__inputs)
                for data__inputs_x, data__inputs_item in enumerate(data__inputs):
                    if not isinstance(data__inputs_item, (str)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".inputs[{data__inputs_x}]".format(**locals()) + " must be string")
        if "nodes" in data_keys:
            data_keys.remove("nodes")
            data__nodes = data["nodes"]
            if not isinstance(data__nodes, (list, tuple)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".nodes must be array")
            data__nodes_is_list = isinstance(data__nodes, (list, tuple))
            if data__nodes_is_list:
                data__nodes_len = len(data__nodes)
                for data__nodes_x, data__nodes_item in enumerate(data__nodes):
                    validate___definitions_node(data__nodes_item, custom_formats, (name_prefix or "data") + ".nodes[{data__nodes_x}]".format(**locals()))
        if "outputs" in data_keys:
            data_keys.remove("outputs")
            data__outputs = data["outputs"]
            if not isinstance(data__outputs, (list, tuple)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".outputs must be array")
            data__outputs_is_list = isinstance(data__outputs, (list, tuple))
            if data__outputs_is_list:
                data__outputs_len = len(data__outputs)
                for data__outputs_x, data__outputs_item in enumerate(data__outputs):
                    validate___definitions_source(data__outputs_item, custom_formats, (name_prefix or "data") + ".outputs[{data__outputs_x}]".format(**locals()))
        if "demultiply_count" in data_keys:
            data_keys.remove("demultiply_count")
            data__demultiplycount = data["demultiply_count"]
            if not isinstance(data__demultiplycount, (int)) and not (isinstance(data__demultiplycount, float) and data__demultiplycount.is_integer()) or isinstance(data__demultiplycount, bool):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".demultiply_count must be integer")
            if isinstance(data__demultiplycount, (int, float, Decimal)) and not isinstance(data__demultiplycount, bool):
                if data__demultiplycount < -1:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".demultiply_count must be bigger than or equal to -1")
                if data__demultiplycount > 10000:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".demultiply_count must be smaller than or equal to 10000")
        if data_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must not contain "+str(data_keys)+" properties")
    return data

def validate___definitions_source(data, custom_formats={}, name_prefix=None):
    if not isinstance(data, (dict)):
        raise JsonSchemaValueException("" + (name_prefix or "data") + " must be object")
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data_len = len(data)
        if data_len < 1:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain at least 1 properties")
        if data_len > 1:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain less than or equal to 1 properties")
        data_keys = set(data.keys())
        for data_key in data_keys:
            if data_key not in []:
                data_value = data.get(data_key)
                if not isinstance(data_value, (dict)):
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".{data_key}".format(**locals()) + " must be object")
                data_value_is_dict = isinstance(data_value, dict)
                if data_value_is_dict:
                    data_value__missing_keys = set(['node_name', 'data_item']) - data_value.keys()
                    if data_value__missing_keys:
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".{data_key}".format(**locals()) + " must contain ")
                    data_value_keys = set(data_value.keys())
                    if "node_name" in data_value_keys:
                        data_value_keys.remove("node_name")
                        data_value__nodename = data_value["node_name"]
                        if not isinstance(data_value__nodename, (str)):
                            raise JsonSchemaValueException("" + (name_prefix or "data") + ".{data_key}.node_name".format(**locals()) + " must be string")
                    if "data_item" in data_value_keys:
                        data_value_keys.remove("data_item")
                        data_value__dataitem = data_value["data_item"]
                        if not isinstance(data_value__dataitem, (str)):
                            raise JsonSchemaValueException("" + (name_prefix or "data") + ".{data_key}.data_item".format(**locals()) + " must be string")
                    if data_value_keys:
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".{data_key}".format(**locals()) + " must not contain "+str(data_value_keys)+" properties")
    return data

def validate___definitions_node(data, custom_formats={}, name_prefix=None):
    if not isinstance(data, (dict)):
        raise JsonSchemaValueException("" + (name_prefix or "data") + " must be object")
    data_one_of_count1 = 0
    if data_one_of_count1 < 2:
        try:
            try:
                data_is_dict = isinstance(data, dict)
                if data_is_dict:
                    data__missing_keys = set(['model_name']) - data.keys()
                    if data__missing_keys:
                        raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
            except (JsonSchemaValueException, JsonSchemaValuesException): pass
            else:
                raise JsonSchemaValueException("" + (name_prefix or "data") + " must NOT match a disallowed definition")
            data_is_dict = isinstance(data, dict)
            if data_is_dict:
                data__missing_keys = set(['library_name']) - data.keys()
                if data__missing_keys:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
                data_keys = set(data.keys())
                if "type" in data_keys:
                    data_keys.remove("type")
                    data__type = data["type"]
                    if not (isinstance(data__type, str) and data__type == 'custom'):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".type must be one of ['custom']")
            data_one_of_count1 += 1
        except (JsonSchemaValueException, JsonSchemaValuesException): pass
    if data_one_of_count1 < 2:
        try:
            try:
                data_is_dict = isinstance(data, dict)
                if data_is_dict:
                    data__missing_keys = set(['library_name']) - data.keys()
                    if data__missing_keys:
                        raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
            except (JsonSchemaValueException, JsonSchemaValuesException): pass
            else:
                raise JsonSchemaValueException("" + (name_prefix or "data") + " must NOT match a disallowed definition")
            data_is_dict = isinstance(data, dict)
            if data_is_dict:
                data__missing_keys = set(['model_name']) - data.keys()
                if data__missing_keys:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
                data_keys = set(data.keys())
                if "type" in data_keys:
                    data_keys.remove("type")
                    data__type = data["type"]
                    if not (isinstance(data__type, str) and data__type == 'DL model'):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".type must be one of ['DL model']")
            data_one_of_count1 += 1
        except (JsonSchemaValueException, JsonSchemaValuesException): pass
    if data_one_of_count1 != 1:
        raise JsonSchemaValueException("" + (name_prefix or "data") + " must be valid exactly by one definition")
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['name', 'type', 'inputs', 'outputs']) - data.keys()
        if data__missing_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
        data_keys = set(data.keys())
        if "name" in data_keys:
            data_keys.remove("name")
            data__name = data["name"]
            if not isinstance(data__name, (str)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".name must be string")
        if "type" in data_keys:
            data_keys.remove("type")
            data__type = data["type"]
            if not (isinstance(data__type, str) and data__type == 'DL model' or isinstance(data__type, str) and data__type == 'custom'):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".type must be one of ['DL model', 'custom']")
        if "model_name" in data_keys:
            data_keys.remove("model_name")
            data__modelname = data["model_name"]
            if not isinstance(data__modelname, (str)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".model_name must be string")
        if "version" in data_keys:
            data_keys.remove("version")
            data__version = data["version"]
            if not isinstance(data__version, (int)) and not (isinstance(data__version, float) and data__version.is_integer()) or isinstance(data__version, bool):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".version must be integer")
            if isinstance(data__version, (int, float, Decimal)) and not isinstance(data__version, bool):
                if data__version < 1:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".version must be bigger than or equal to 1")
        if "library_name" in data_keys:
            data_keys.remove("library_name")
            data__libraryname = data["library_name"]
            if not isinstance(data__libraryname, (str)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".library_name must be string")
        if "params" in data_keys:
            data_keys.remove("params")
            data__params = data["params"]
            if not isinstance(data__params, (dict)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".params must be object")
            data__params_is_dict = isinstance(data__params, dict)
            if data__params_is_dict:
                data__params_keys = set(data__params.keys())
                for data__params_key in data__params_keys:
                    if data__params_key not in []:
                        data__params_value = data__params.get(data__params_key)
                        if not isinstance(data__params_value, (str)):
                            raise JsonSchemaValueException("" + (name_prefix or "data") + ".params.{data__params_key}".format(**locals()) + " must be string")
        if "inputs" in data_keys:
            data_keys.remove("inputs")
            data__inputs = data["inputs"]
            if not isinstance(data__inputs, (list, tuple)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".inputs must be array")
            data__inputs_is_list = isinstance(data__inputs, (list, tuple))
            if data__inputs_is_list:
                data__inputs_len = len(data__inputs)
                for data__inputs_x, data__inputs_item in enumerate(data__inputs):
                    validate___definitions_source(data__inputs_item, custom_formats, (name_prefix or "data") + ".inputs[{data__inputs_x}]".format(**locals()))
        if "outputs" in data_keys:
            data_keys.remove("outputs")
            data__outputs = data["outputs"]
            if not isinstance(data__outputs, (list, tuple)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".outputs must be array")
            data__outputs_is_list = isinstance(data__outputs, (list, tuple))
            if data__outputs_is_list:
                data__outputs_len = len(data__outputs)
                for data__outputs_x, data__outputs_item in enumerate(data__outputs):
                    validate___definitions_alias(data__outputs_item, custom_formats, (name_prefix or "data") + ".outputs[{data__outputs_x}]".format(**locals()))
        if "demultiply_count" in data_keys:
            data_keys.remove("demultiply_count")
            data__demultiplycount = data["demultiply_count"]
            if not isinstance(data__demultiplycount, (int)) and not (isinstance(data__demultiplycount, float) and data__demultiplycount.is_integer()) or isinstance(data__demultiplycount, bool):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".demultiply_count must be integer")
            if isinstance(data__demultiplycount, (int, float, Decimal)) and not isinstance(data__demultiplycount, bool):
                if data__demultiplycount < -1:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".demultiply_count must be bigger than or equal to -1")
                if data__demultiplycount > 10000:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".demultiply_count must be smaller than or equal to 10000")
        if "gather_from_node" in data_keys:
            data_keys.remove("gather_from_node")
            data__gatherfromnode = data["gather_from_node"]
            if not isinstance(data__gatherfromnode, (str)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".gather_from_node must be string")
        if data_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must not contain "+str(data_keys)+" properties")
    return data

def validate___definitions_alias(data, custom_formats={}, name_prefix=None):
    if not isinstance(data, (dict)):
        raise JsonSchemaValueException("" + (name_prefix or "data") + " must be object")
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['data_item', 'alias']) - data.keys()
        if data__missing_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
        data_keys = set(data.keys())
        if "data_item" in data_keys:
            data_keys.remove("data_item")
            data__dataitem = data["data_item"]
            if not isinstance(data__dataitem, (str)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".data_item must be string")
        if "alias" in data_keys:
            data_keys.remove("alias")
            data__alias = data["alias"]
            if not isinstance(data__alias, (str)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".alias must be string")
        if data_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must not contain "+str(data_keys)+" properties")
    return data

def validate___definitions_custom_node_library(data, custom_formats={}, name_prefix=None):
    if not isinstance(data, (dict)):
        raise JsonSchemaValueException("" + (name_prefix or "data") + " must be object")
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['name', 'base_path']) - data.keys()
        if data__missing_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
        data_keys = set(data.keys())
        if "name" in data_keys:
            data_keys.remove("name")
            data__name = data["name"]
            if not isinstance(data__name, (str)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".name must be string")
        if "base_path" in data_keys:
            data_keys.remove("base_path")
            data__basepath = data["base_path"]
            if not isinstance(data__basepath, (str)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".base_path must be string")
        if data_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must not contain "+str(data_keys)+" properties")
    return data

def validate___definitions_custom_loader(data, custom_formats={}, name_prefix=None):
    if not isinstance(data, (dict)):
        raise JsonSchemaValueException("" + (name_prefix or "data") + " must be object")
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['config']) - data.keys()
        if data__missing_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
        data_keys = set(data.keys())
        if "config" in data_keys:
            data_keys.remove("config")
            data__config = data["config"]
            if not isinstance(data__config, (dict)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".config must be object")
            data__config_is_dict = isinstance(data__config, dict)
            if data__config_is_dict:
                data__config__missing_keys = set(['loader_name', 'library_path']) - data__config.keys()
                if data__config__missing_keys:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".config must contain ")
                data__config_keys = set(data__config.keys())
                if "loader_name" in data__config_keys:
                    data__config_keys.remove("loader_name")
                    data__config__loadername = data__config["loader_name"]
                    if not isinstance(data__config__loadername, (str)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.loader_name must be string")
                if "library_path" in data__config_keys:
                    data__config_keys.remove("library_path")
                    data__config__librarypath = data__config["library_path"]
                    if not isinstance(data__config__librarypath, (str)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.library_path must be string")
                if "loader_config_file" in data__config_keys:
                    data__config_keys.remove("loader_config_file")
                    data__config__loaderconfigfile = data__config["loader_config_file"]
                    if not isinstance(data__config__loaderconfigfile, (str)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.loader_config_file must be string")
                if data__config_keys:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".config must not contain "+str(data__config_keys)+" properties")
        if data_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must not contain "+str(data_keys)+" properties")
    return data

def validate___definitions_model(data, custom_formats={}, name_prefix=None):
    if not isinstance(data, (dict)):
        raise JsonSchemaValueException("" + (name_prefix or "data") + " must be object")
    data_is_dict = isinstance(data, dict)
    if data_is_dict:
        data__missing_keys = set(['config']) - data.keys()
        if data__missing_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must contain ")
        data_keys = set(data.keys())
        if "config" in data_keys:
            data_keys.remove("config")
            data__config = data["config"]
            if not isinstance(data__config, (dict)):
                raise JsonSchemaValueException("" + (name_prefix or "data") + ".config must be object")
            data__config_is_dict = isinstance(data__config, dict)
            if data__config_is_dict:
                data__config__missing_keys = set(['name', 'base_path']) - data__config.keys()
                if data__config__missing_keys:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".config must contain ")
                data__config_keys = set(data__config.keys())
                if "name" in data__config_keys:
                    data__config_keys.remove("name")
                    data__config__name = data__config["name"]
                    if not isinstance(data__config__name, (str)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.name must be string")
                if "base_path" in data__config_keys:
                    data__config_keys.remove("base_path")
                    data__config__basepath = data__config["base_path"]
                    if not isinstance(data__config__basepath, (str)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.base_path must be string")
                if "batch_size" in data__config_keys:
                    data__config_keys.remove("batch_size")
                    data__config__batchsize = data__config["batch_size"]
                    if not isinstance(data__config__batchsize, (int, str)) and not (isinstance(data__config__batchsize, float) and data__config__batchsize.is_integer()) or isinstance(data__config__batchsize, bool):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.batch_size must be integer or string")
                    if isinstance(data__config__batchsize, (int, float, Decimal)) and not isinstance(data__config__batchsize, bool):
                        if data__config__batchsize < 0:
                            raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.batch_size must be bigger than or equal to 0")
                if "shape" in data__config_keys:
                    data__config_keys.remove("shape")
                    data__config__shape = data__config["shape"]
                    if not isinstance(data__config__shape, (str, list, tuple, dict)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.shape must be string or array or object")
                if "layout" in data__config_keys:
                    data__config_keys.remove("layout")
                    data__config__layout = data__config["layout"]
                    if not isinstance(data__config__layout, (str, dict)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.layout must be string or object")
                if "nireq" in data__config_keys:
                    data__config_keys.remove("nireq")
                    data__config__nireq = data__config["nireq"]
                    if not isinstance(data__config__nireq, (int)) and not (isinstance(data__config__nireq, float) and data__config__nireq.is_integer()) or isinstance(data__config__nireq, bool):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.nireq must be integer")
                    if isinstance(data__config__nireq, (int, float, Decimal)) and not isinstance(data__config__nireq, bool):
                        if data__config__nireq < 0:
                            raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.nireq must be bigger than or equal to 0")
                if "target_device" in data__config_keys:
                    data__config_keys.remove("target_device")
                    data__config__targetdevice = data__config["target_device"]
                    if not isinstance(data__config__targetdevice, (str)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.target_device must be string")
                if "plugin_config" in data__config_keys:
                    data__config_keys.remove("plugin_config")
                    data__config__pluginconfig = data__config["plugin_config"]
                    if not isinstance(data__config__pluginconfig, (dict)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.plugin_config must be object")
                if "model_version_policy" in data__config_keys:
                    data__config_keys.remove("model_version_policy")
                    data__config__modelversionpolicy = data__config["model_version_policy"]
                    if not isinstance(data__config__modelversionpolicy, (dict)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.model_version_policy must be object")
                if "allow_cache" in data__config_keys:
                    data__config_keys.remove("allow_cache")
                    data__config__allowcache = data__config["allow_cache"]
                    if not isinstance(data__config__allowcache, (bool)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.allow_cache must be boolean")
                if "stateful" in data__config_keys:
                    data__config_keys.remove("stateful")
                    data__config__stateful = data__config["stateful"]
                    if not isinstance(data__config__stateful, (bool)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.stateful must be boolean")
                if "idle_sequence_cleanup" in data__config_keys:
                    data__config_keys.remove("idle_sequence_cleanup")
                    data__config__idlesequencecleanup = data__config["idle_sequence_cleanup"]
                    if not isinstance(data__config__idlesequencecleanup, (bool)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.idle_sequence_cleanup must be boolean")
                if "low_latency_transformation" in data__config_keys:
                    data__config_keys.remove("low_latency_transformation")
                    data__config__lowlatencytransformation = data__config["low_latency_transformation"]
                    if not isinstance(data__config__lowlatencytransformation, (bool)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.low_latency_transformation must be boolean")
                if "max_sequence_number" in data__config_keys:
                    data__config_keys.remove("max_sequence_number")
                    data__config__maxsequencenumber = data__config["max_sequence_number"]
                    if not isinstance(data__config__maxsequencenumber, (int)) and not (isinstance(data__config__maxsequencenumber, float) and data__config__maxsequencenumber.is_integer()) or isinstance(data__config__maxsequencenumber, bool):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.max_sequence_number must be integer")
                    if isinstance(data__config__maxsequencenumber, (int, float, Decimal)) and not isinstance(data__config__maxsequencenumber, bool):
                        if data__config__maxsequencenumber < 0:
                            raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.max_sequence_number must be bigger than or equal to 0")
                if "mean" in data__config_keys:
                    data__config_keys.remove("mean")
                    data__config__mean = data__config["mean"]
                    if not isinstance(data__config__mean, (int, float, Decimal, str, list, tuple, dict)) or isinstance(data__config__mean, bool):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.mean must be number or string or array or object")
                if "scale" in data__config_keys:
                    data__config_keys.remove("scale")
                    data__config__scale = data__config["scale"]
                    if not isinstance(data__config__scale, (int, float, Decimal, str, list, tuple, dict)) or isinstance(data__config__scale, bool):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.scale must be number or string or array or object")
                if "color_format" in data__config_keys:
                    data__config_keys.remove("color_format")
                    data__config__colorformat = data__config["color_format"]
                    if not isinstance(data__config__colorformat, (str, dict)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.color_format must be string or object")
                if "precision" in data__config_keys:
                    data__config_keys.remove("precision")
                    data__config__precision = data__config["precision"]
                    if not isinstance(data__config__precision, (str, dict)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.precision must be string or object")
                if "custom_loader_options" in data__config_keys:
                    data__config_keys.remove("custom_loader_options")
                    data__config__customloaderoptions = data__config["custom_loader_options"]
                    if not isinstance(data__config__customloaderoptions, (dict)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.custom_loader_options must be object")
                    data__config__customloaderoptions_is_dict = isinstance(data__config__customloaderoptions, dict)
                    if data__config__customloaderoptions_is_dict:
                        data__config__customloaderoptions__missing_keys = set(['loader_name']) - data__config__customloaderoptions.keys()
                        if data__config__customloaderoptions__missing_keys:
                            raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.custom_loader_options must contain ")
                        data__config__customloaderoptions_keys = set(data__config__customloaderoptions.keys())
                        if "loader_name" in data__config__customloaderoptions_keys:
                            data__config__customloaderoptions_keys.remove("loader_name")
                            data__config__customloaderoptions__loadername = data__config__customloaderoptions["loader_name"]
                            if not isinstance(data__config__customloaderoptions__loadername, (str)):
                                raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.custom_loader_options.loader_name must be string")
                if "version_labels" in data__config_keys:
                    data__config_keys.remove("version_labels")
                    data__config__versionlabels = data__config["version_labels"]
                    if not isinstance(data__config__versionlabels, (dict)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.version_labels must be object")
                if "lazy" in data__config_keys:
                    data__config_keys.remove("lazy")
                    data__config__lazy = data__config["lazy"]
                    if not isinstance(data__config__lazy, (bool)):
                        raise JsonSchemaValueException("" + (name_prefix or "data") + ".config.lazy must be boolean")
                if data__config_keys:
                    raise JsonSchemaValueException("" + (name_prefix or "data") + ".config must not contain "+str(data__config_keys)+" properties")
        if data_keys:
            raise JsonSchemaValueException("" + (name_prefix or "data") + " must not contain "+str(data_keys)+" properties")
    return data
